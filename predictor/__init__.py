"""The numerical core: arrays in, arrays out.

Importing it changes no global setting of JAX. Names come on first use: whoever wants the
configuration does not wait for the solvers and networks of the kernels.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predictor.config import PredictorConfig as PredictorConfig
    from predictor.errors import ConfigMutationError as ConfigMutationError
    from predictor.errors import DomainError as DomainError
    from predictor.errors import FrequencyWarning as FrequencyWarning
    from predictor.errors import IntegrityError as IntegrityError
    from predictor.errors import StalenessWarning as StalenessWarning
    from predictor.functional import FunctionalPredictor as FunctionalPredictor
    from predictor.types import Observation as Observation
    from predictor.types import OperatingMode as OperatingMode
    from predictor.types import PredictionResult as PredictionResult
    from predictor.universal import ProcessState as ProcessState
    from predictor.universal import UniversalPredictor as UniversalPredictor

_HOMES = {
    "PredictorConfig": "config",
    "ConfigMutationError": "errors",
    "DomainError": "errors",
    "FrequencyWarning": "errors",
    "IntegrityError": "errors",
    "StalenessWarning": "errors",
    "FunctionalPredictor": "functional",
    "Observation": "types",
    "OperatingMode": "types",
    "PredictionResult": "types",
    "ProcessState": "universal",
    "UniversalPredictor": "universal",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
