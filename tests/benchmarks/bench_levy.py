"""What does the mean of one tick of a diffusion cost, and what importing diffrax?

Run with `python -m tests.benchmarks.bench_levy`: microseconds per lane of `propagate_mean` in a
compiled loop at a tile of 32, compile time apart, and seconds of `import diffrax` after jax in
fresh processes; the best of several each.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from predictor.kernels.levy.schemes import propagate_mean

LANES, TICKS = 32, 64
IMPORT = (
    "import time, jax, jax.numpy; start = time.perf_counter(); import diffrax; "
    "print(time.perf_counter() - start)"
)


def mean_of_a_tick(sub_steps: int) -> tuple[float, float]:
    """Seconds to compile, and microseconds per lane and tick."""
    random = np.random.default_rng(0)
    coefficients = jnp.asarray(random.normal(size=(LANES, 4)) * [0.1, 0.5, 0.1, 0.05])
    coefficients += jnp.asarray([0.0, -1.0, 0.0, -0.1])

    def tick(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        step = jax.vmap(lambda c, y: propagate_mean(c, y, 0.5, 0.5, sub_steps=sub_steps))(
            coefficients, x
        )
        # Everything is used, or the compiler would drop it.
        rest = step.residual + step.newton_iterations + step.stiffness
        return step.mean + 0.01 * step.variance + 1e-9 * rest + 0.5, None

    run = jax.jit(lambda x: jax.lax.scan(tick, x, None, length=TICKS)[0])
    start = time.perf_counter()
    jax.block_until_ready(run(jnp.ones(LANES)))
    compiled = time.perf_counter() - start
    best = np.inf
    for _ in range(20):
        start = time.perf_counter()
        jax.block_until_ready(run(jnp.ones(LANES)))
        best = min(best, time.perf_counter() - start)
    return compiled, best / (LANES * TICKS) * 1e6


def main() -> None:
    """Print the table."""
    write = sys.stdout.write
    for sub_steps in (4, 8):
        compiled, cost = mean_of_a_tick(sub_steps)
        write(
            f"{platform.machine()}, tile {LANES}, {sub_steps} sub-steps: "
            f"compile {compiled:.1f} s, {cost:.2f} µs per lane\n"
        )
    seconds = min(
        float(
            subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True).stdout
        )
        for _ in range(4)
    )
    write(f"import diffrax: {seconds:.2f} s after jax\n")


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
