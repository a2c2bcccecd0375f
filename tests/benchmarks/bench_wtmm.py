"""How biased are the exponents of the wavelet maxima on fractional Brownian motion?

Run with `python -m tests.benchmarks.bench_wtmm [PATHS]`: mean and standard deviation of the
dominant and the smallest exponent and of the width over exact paths, and milliseconds a path. Of
8,192 points there are a tenth as many paths.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from predictor.identification import wtmm
from tests.benchmarks.bench_holder import fractional_paths


def main(paths: int) -> None:
    """Print one line per length and exponent."""
    sys.stdout.write("points    H |      dominant      smallest         width |   ms\n")
    for points, count in ((128, paths), (1024, paths), (8192, max(2, paths // 10))):
        for exponent in (0.2, 0.3, 0.5, 0.7, 0.8):
            random = np.random.default_rng(points + round(100 * exponent))
            series = fractional_paths(random, exponent, points, count)
            start = time.perf_counter()
            found = np.array(
                [
                    (spectrum.dominant, spectrum.smallest, spectrum.width)
                    for spectrum in map(wtmm.spectrum, series)
                ]
            )
            spent = (time.perf_counter() - start) / count * 1e3
            columns = "  ".join(
                f"{mean:5.2f} ± {deviation:4.2f}"
                for mean, deviation in zip(found.mean(0), found.std(0), strict=True)
            )
            sys.stdout.write(f"{points:6d} {exponent:4.1f} | {columns} | {spent:4.0f}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
