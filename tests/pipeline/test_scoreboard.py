"""Offsets compared, and accuracy against persistence."""

from __future__ import annotations

import math

import pytest

from pipeline.scoreboard import UNSCORED_TICKS, Scoreboard


def prediction(offset: int, value: float, said: float, **changes) -> dict:
    record = {
        "asset_id": "ar1-0",
        "source_partition": 0,
        "source_offset": offset,
        "sequence": offset + 1 + UNSCORED_TICKS,
        "magnitude": value,
        "reference_prediction": said,
        "confidence_lower": said - 1.0,
        "confidence_upper": said + 1.0,
        "outlier_rejected": False,
    }
    return {**record, **changes}


def board() -> Scoreboard:
    return Scoreboard(lambda asset: asset.partition("-")[0])


def test_a_forecast_is_scored_against_the_next_value_of_its_asset():
    scores = board()
    scores.prediction(prediction(0, 0.0, said=1.0))
    scores.prediction(prediction(1, 2.0, said=2.0))
    scores.prediction(prediction(2, 2.0, said=0.0))

    (row,) = scores.accuracies()

    assert row.rmse_ratio == pytest.approx(math.sqrt((1.0 + 0.0) / (4.0 + 0.0)))
    assert row.coverage == 1.0
    assert (row.group, row.answered, row.scored) == ("ar1", 3, 2)


def test_missing_and_repeated_answers_are_counted():
    scores = board()
    for offset in (0, 1, 1, 1, 3):
        scores.prediction(prediction(offset, 0.0, 0.0))
    scores.answer((0, 4))

    verdict = scores.verdict([(0, offset) for offset in range(6)])

    assert (verdict.lost, verdict.duplicated, verdict.answered) == (2, 2, 4)


def test_rejected_and_early_values_are_not_scored():
    scores = board()
    scores.prediction(prediction(0, 0.0, 0.0, sequence=1))
    scores.prediction(prediction(1, 9.0, 0.0, sequence=2))
    scores.prediction(prediction(2, 1e9, 0.0, outlier_rejected=True))
    scores.prediction(prediction(3, math.nan, 0.0))

    (row,) = scores.accuracies()

    assert row.scored == 0
    assert math.isnan(row.rmse_ratio)
