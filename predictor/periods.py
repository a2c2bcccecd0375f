"""The periods among which seasons are looked for, in ticks: of a level as of a volatility."""

from __future__ import annotations

import numpy as np

SHORTEST, LONGEST = 2, 64
PERIODS = np.arange(SHORTEST, LONGEST + 1)
