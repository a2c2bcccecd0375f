"""The numerical core: arrays in, arrays out.

Importing it changes no global setting of JAX.
"""

from predictor.config import PredictorConfig as PredictorConfig
from predictor.functional import FunctionalPredictor as FunctionalPredictor
from predictor.types import Observation as Observation
from predictor.types import OperatingMode as OperatingMode
from predictor.types import PredictionResult as PredictionResult
