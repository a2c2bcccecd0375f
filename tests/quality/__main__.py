"""`python -m tests.quality`: the table of forecast quality, and what each kernel is worth."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping

import numpy as np

from tests.quality.scores import FULL_SIZE, PARTS, TEST_SIZE, Score, run, without

COLUMNS = {
    "over_best": "RMSE / best",
    "over_persistence": "RMSE / persistence",
    "over_best_kernel": "RMSE / best kernel",
    "start_over_best": "start / best",
    "coverage": "coverage",
    "width_over_exact": "width / exact",
    "winkler_over_exact": "Winkler / exact",
    "alarms_per_thousand": "alarms / 1,000",
}
NOT_RATIOS = ("coverage", "alarms_per_thousand")


def table(rows: Mapping[str, Mapping[str, str]], first: str) -> str:
    """Rows by name as a Markdown table."""
    headings = list(next(iter(rows.values())))
    lines = [f"| {first} | " + " | ".join(headings) + " |"]
    lines.append("|---|" + "---|" * len(headings))
    lines += [
        f"| {name} | " + " | ".join(row[each] for each in headings) + " |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def typical(values: list[float], name: str) -> float:
    """Geometric mean of ratios, plain mean of the others."""
    if name in NOT_RATIOS:
        return float(np.mean(values))
    return float(np.exp(np.mean(np.log(values))))


def cells(score: Mapping[str, float]) -> dict[str, str]:
    return {
        heading: f"{100 * score[name]:.1f} %" if name == "coverage" else f"{score[name]:.3f}"
        for name, heading in COLUMNS.items()
    }


def quality(scores: Mapping[str, Score]) -> str:
    rows = {name: dataclasses.asdict(score) for name, score in scores.items()}
    mean = {name: typical([row[name] for row in rows.values()], name) for name in COLUMNS}
    return table({name: cells(row) for name, row in {**rows, "typical": mean}.items()}, "scenario")


def ablation(whole: Mapping[str, Score], less: Mapping[str, Mapping[str, Score]]) -> str:
    """RMSE without each part over RMSE with all of them."""
    ratios = {
        scenario: {
            name: scores[scenario].over_best / whole[scenario].over_best
            for name, scores in less.items()
        }
        for scenario in whole
    }
    ratios["typical"] = {
        name: typical([row[name] for row in ratios.values()], "over_best") for name in less
    }
    return table(
        {
            scenario: {f"without {name}": f"{ratio:.3f}" for name, ratio in row.items()}
            for scenario, row in ratios.items()
        },
        "scenario",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.quality", description=__doc__)
    parser.add_argument("--small", action="store_true", help="the size that the tests run")
    parser.add_argument("--seed", type=int, default=0, help="of the series (default 0)")
    parser.add_argument("--ablation", action="store_true", help="also without each part")
    parser.add_argument("--json", action="store_true", help="numbers instead of tables")
    chosen = parser.parse_args()
    size = TEST_SIZE if chosen.small else FULL_SIZE
    whole = run(size, chosen.seed)
    less = {}
    for name in PARTS if chosen.ablation else ():
        with without(name):
            less[name] = run(size, chosen.seed)
    if chosen.json:
        everything = {"all kernels": whole} | {f"without {name}": less[name] for name in less}
        plain = {
            name: {scenario: dataclasses.asdict(score) for scenario, score in scores.items()}
            for name, scores in everything.items()
        }
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    blocks = [
        f"{size.lanes} series of {size.rows:,} ticks per scenario, {size.settled} of them unscored",
        quality(whole),
    ]
    if less:
        blocks += ["RMSE without one part over RMSE with all:", ablation(whole, less)]
    sys.stdout.write("\n\n".join(blocks) + "\n")


if __name__ == "__main__":
    main()
