"""`usp bench step`: what one tick costs in the numerical core, by batch size."""

from __future__ import annotations

import platform
import time
from typing import Any, NamedTuple

import jax
import jaxlib
import numpy as np

from pipeline import device
from pipeline.bench_kernels import measure_kernels
from pipeline.config import Config
from pipeline.pool import StatePool, TickColumns

BATCHES = (1, 8, 16, 32, 64, 128, 256, 1024)
ROUNDS_PER_BATCH = (1, 16)
SECONDS_PER_CASE = 1.0
SECOND_NS = 1_000_000_000


class StepCost(NamedTuple):
    """Cost of micro-batches of `assets` lanes with `ticks_per_asset` ticks each.

    `core_us_per_tick` is processor time of the whole process, all threads, per tick;
    `wall_us_per_tick` is elapsed time. Medians over repetitions.
    """

    assets: int
    ticks_per_asset: int
    core_us_per_tick: float
    wall_us_per_tick: float
    repetitions: int


def measure(config: Config, seconds_per_case: float = SECONDS_PER_CASE) -> dict[str, Any]:
    """Time the pool's step, gather and scatter of states included, on random walks."""
    device.configure(config.device)
    began = time.perf_counter()
    pool = StatePool(config.predictor, config.device.slab_assets)
    pool.warm_up()
    warm_up_seconds = time.perf_counter() - began
    rng = np.random.default_rng(config.seed)
    _run(pool, rng, 1, 1, 0, config)
    compiled = device.compilations()
    costs = [
        _case(pool, rng, assets, rounds, seconds_per_case, config)
        for rounds in ROUNDS_PER_BATCH
        for assets in BATCHES
    ]
    recompiled = device.compilations() - compiled
    kernels = measure_kernels(config, seconds_per_case)
    return {
        "device": jax.devices()[0].device_kind,
        "jaxlib": jaxlib.__version__,
        "processor": platform.processor() or platform.machine(),
        "tile": config.device.tile,
        "state_bytes_per_asset": pool.state_bytes,
        "warm_up_seconds": round(warm_up_seconds, 3),
        "programs_compiled_or_loaded": compiled,
        "compilations_after_warm_up": recompiled,
        "steps": [cost._asdict() for cost in costs],
        "kernels": [cost._asdict() for cost in kernels],
    }


def _case(
    pool: StatePool,
    rng: np.random.Generator,
    assets: int,
    rounds: int,
    seconds: float,
    config: Config,
) -> StepCost:
    _run(pool, rng, assets, rounds, 1, config)
    wall: list[float] = []
    core: list[float] = []
    deadline = time.perf_counter() + seconds
    repetition = 2
    while len(wall) < 3 or time.perf_counter() < deadline:
        began, used = time.perf_counter(), time.process_time()
        _run(pool, rng, assets, rounds, repetition, config)
        wall.append(time.perf_counter() - began)
        core.append(time.process_time() - used)
        repetition += 1
    per_tick = 1e6 / (assets * rounds)
    return StepCost(
        assets,
        rounds,
        round(float(np.median(core)) * per_tick, 2),
        round(float(np.median(wall)) * per_tick, 2),
        len(wall),
    )


def _run(
    pool: StatePool,
    rng: np.random.Generator,
    assets: int,
    rounds: int,
    repetition: int,
    config: Config,
) -> None:
    names = [f"asset-{number}" for number in range(assets)]
    slots = np.tile(pool.slots(rounds, names), rounds)
    count = assets * rounds
    ticks = np.repeat(np.arange(rounds), assets) + repetition * rounds + 1
    missing = np.full(count, np.nan)
    stamps = (ticks * SECOND_NS).astype(np.int64)
    columns = TickColumns(rng.standard_normal(count), stamps, stamps, missing, missing)
    pool.step(slots, columns, config.predictor)
    pool.commit()


def print_step_table(report: dict[str, Any]) -> None:
    """The report for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{report['device']}, jaxlib {report['jaxlib']}, tile {report['tile']}: "
        f"{report['state_bytes_per_asset']:,} bytes of state per asset, warm-up "
        f"{report['warm_up_seconds']:.1f} s, {report['compilations_after_warm_up']} compilations "
        "after it",
        highlight=False,
    )
    table = Table()
    for heading in ("assets", "ticks each", "core µs/tick", "wall µs/tick"):
        table.add_column(heading, justify="right")
    for step in report["steps"]:
        table.add_row(
            f"{step['assets']:,}",
            str(step["ticks_per_asset"]),
            f"{step['core_us_per_tick']:.1f}",
            f"{step['wall_us_per_tick']:.1f}",
        )
    console.print(table)
    parts = Table()
    for heading in ("kernel alone", "core µs/tick", "state bytes"):
        parts.add_column(heading, justify="left" if heading == "kernel alone" else "right")
    for kernel in report["kernels"]:
        parts.add_row(
            kernel["kernel"], f"{kernel['core_us_per_tick']:.1f}", f"{kernel['state_bytes']:,}"
        )
    console.print(parts)
