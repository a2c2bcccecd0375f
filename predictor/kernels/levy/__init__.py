"""levy: levels, drift and jumps of an Itô–Lévy process under noise, by filtering.

Members: local levels at every ratio of signal to noise, the running mean among them; local
trends; the run length since the last jump of the level; drift and momentum; an autoregression
with a short memory; the fitted diffusion between two ticks, integrated by the scheme that its
stiffness needs.

Wins on noisy levels, level shifts, trends and whatever changes its law; assumes that the past
beyond the last jump says little. No jump is ever sampled into the forecast: that would add
its variance to the error.

**Source:** Barndorff-Nielsen and Shephard (2004), *Power and bipower variation with
stochastic volatility and jumps*, Journal of Financial Econometrics 2, 1-37; Harvey (1989),
*Forecasting, structural time series models and the Kalman filter*.
"""

from __future__ import annotations

from predictor.kernels.bank import BankState, Member, bank_kernel
from predictor.kernels.levy.diffusion import diffusion_member
from predictor.kernels.levy.levels import local_level_member, local_trend_member
from predictor.kernels.levy.record import SolverReading, reading
from predictor.kernels.levy.run_length import run_length_member
from predictor.kernels.regression import autoregression

SHORT_MEMORY = 0.97
DRIFT_MEMORY = 0.9995

MEMBERS: tuple[Member, ...] = (
    local_level_member("local_level"),
    local_trend_member("local_trend"),
    run_length_member("run_length"),
    autoregression("drift", 0, 3, lambda config: DRIFT_MEMORY),
    autoregression("short_memory", 1, 2, lambda config: SHORT_MEMORY),
    diffusion_member("diffusion"),
)

KERNEL = bank_kernel("levy", MEMBERS)


def solver_reading(state: BankState) -> SolverReading:
    """What the diffusion's solver did of late."""
    names = [member.name for member in MEMBERS]
    return reading(state.members[names.index("diffusion")].record)
