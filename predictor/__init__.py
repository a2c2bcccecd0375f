"""The numerical core: arrays in, arrays out.

Importing it changes no global setting of JAX.
"""

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
