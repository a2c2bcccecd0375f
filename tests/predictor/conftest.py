"""Fixtures for the numerical core: 64-bit arithmetic, and predictors that are compiled once."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings

from predictor import FunctionalPredictor, PredictorConfig
from tests.predictor.streams import TILE, Compilations

# The first example of a property compiles, which no deadline per example allows for.
settings.register_profile(
    "compiled", settings.get_profile("repeatable"), deadline=None, max_examples=50
)
settings.load_profile("compiled")

# Traces and programs live as long as the run: looking through them often finds nothing.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def predictor() -> FunctionalPredictor:
    """The default configuration on a small tile."""
    return FunctionalPredictor(PredictorConfig(tile=TILE))


@pytest.fixture(scope="session")
def compilations() -> Compilations:
    """Counts programs compiled by the backend from now on."""
    return Compilations()
