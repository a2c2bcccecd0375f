"""Importing and using the library leaves the process as it was."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

import predictor
from tests.predictor.streams import TILE

PROGRAM = """
import sys
import jax
names = ["jax_enable_x64", "jax_platforms", "jax_default_matmul_precision",
         "jax_numpy_rank_promotion", "jax_debug_nans", "jax_compilation_cache_dir",
         "jax_default_prng_impl", "jax_disable_jit"]
before = [getattr(jax.config, name) for name in names]
import predictor
after = [getattr(jax.config, name) for name in names]
assert before == after, (before, after)
assert jax.config.jax_enable_x64 is False
foreign = {"confluent_kafka", "fastavro", "pyarrow", "rich", "typer", "matplotlib",
           "pipeline", "consumers", "producers", "schemas"} & set(sys.modules)
assert not foreign, foreign
print("clean")
"""


def test_import_changes_no_global_setting_of_jax():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "clean"


def test_use_computes_in_64_bits_and_changes_no_global_setting_of_jax():
    with jax.enable_x64(False):
        before = dict(jax.config.values)
        single = predictor.UniversalPredictor(predictor.PredictorConfig(tile=TILE))
        result = single.step(predictor.ProcessState(1.0 / 3.0, 5))

        assert result.reference_prediction.dtype == np.float64
        assert float(result.reference_prediction) == 1.0 / 3.0
        assert jax.config.values == before
        assert jnp.asarray(1.0 / 3.0).dtype == jnp.float32


def test_public_names_are_those_that_are_documented():
    for name in (
        "PredictorConfig",
        "ProcessState",
        "PredictionResult",
        "FunctionalPredictor",
        "UniversalPredictor",
        "OperatingMode",
        "Observation",
        "DomainError",
        "StalenessWarning",
        "FrequencyWarning",
        "IntegrityError",
        "ConfigMutationError",
    ):
        assert hasattr(predictor, name), name
