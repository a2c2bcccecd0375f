"""System identification: host functions over a series, outside of the compiled step.

Nothing here decides a forecast. `identify` gathers what there is; each part is a module of its
own. Series are one-dimensional, oldest value first, unless a function says `window`.
"""

from predictor.identification.vector import Identification as Identification
from predictor.identification.vector import identify as identify
