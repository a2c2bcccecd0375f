"""The demo as a user runs it, at a small size."""

from __future__ import annotations

import json
import subprocess
import sys


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pipeline",
            "demo",
            "--assets",
            "1",
            "--ticks",
            "300",
            "--seconds",
            "5",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_off_a_terminal_it_prints_plain_lines_and_the_verdict():
    run = demo()

    assert run.returncode == 0, run.stdout + run.stderr
    assert "\x1b" not in run.stdout
    assert "kill -9 of the worker after" in run.stdout
    assert "0 lost, 0 duplicated" in run.stdout


def test_as_json_it_reports_losses_and_accuracy_per_process():
    run = demo("--json")

    report = json.loads(run.stdout)
    assert (report["lost"], report["duplicated"], report["passed"]) == (0, 0, True)
    assert report["seconds_until_back"] > 0.0
    assert report["ticks"] == report["predictions"] == 8 * 300
    ratios = {row["group"]: row["rmse_ratio"] for row in report["processes"]}
    assert ratios["logistic_map"] < 0.5
    assert ratios["random_walk"] < 1.1
