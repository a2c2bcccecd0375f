"""What `usp watch` makes of predictions."""

import math
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from rich.console import Console

from pipeline.broker import running_broker
from pipeline.config import Config, load
from pipeline.errors import ExitCode, UserError
from pipeline.topics import apply
from pipeline.watch import UNSCORED_TICKS, Watch, line, time_text
from pipeline.watch_topic import View, bar, follow, table
from schemas.codec import Framing, PredictionEncoder

MINUTE_NS = 60 * 10**9


def prediction(asset="a", value=1.0, forecast=1.0, sequence=UNSCORED_TICKS, **other):
    """A prediction with an interval of one unit on either side."""
    record = {
        "asset_id": asset,
        "timestamp_ns": sequence * MINUTE_NS,
        "request_id": None,
        "state_tag": None,
        "source_partition": 0,
        "source_offset": sequence,
        "sequence": sequence,
        "magnitude": value,
        "reference_prediction": forecast,
        "confidence_lower": forecast - 1.0,
        "confidence_upper": forecast + 1.0,
        "location": 0.0,
        "scale": 1.0,
        "operating_mode": "inference",
        "mode": "standard",
        "weights": [0.7, 0.2, 0.1, 0.0],
        "kernel_predictions": [forecast] * 4,
        "holder_exponent": None,
        "kurtosis": None,
        "dgm_entropy": None,
        "free_energy": None,
        "sinkhorn_epsilon": None,
        "sinkhorn_converged": None,
        "cusum_drift": 0.0,
        "adaptive_threshold": 1.0,
        "distance_to_collapse": 1.0,
        "degraded_inference_mode": False,
        "emergency_mode": False,
        "regime_change_detected": False,
        "mode_collapse_warning": False,
        "outlier_rejected": False,
        "signature_depth": 3,
        "cusum_alarm": False,
        "shift_alarm": False,
        "config_generation": 1,
        "config_hash": "0" * 64,
    }
    return record | other


def watched(*records) -> Watch:
    state = Watch()
    for record in records:
        state.add(record)
    return state


def only(state: Watch):
    (row,) = state.rows("asset", 0)
    return row.score


def test_a_forecast_is_compared_with_the_value_that_follows():
    state = watched(prediction(value=0.0, forecast=2.0), prediction(value=3.0, sequence=21))
    score = only(state)
    assert (score.scored, score.squared_error, score.squared_step) == (1, 1.0, 9.0)
    assert score.ratio == pytest.approx(1.0 / 3.0)
    assert score.coverage == 1.0


def test_a_value_outside_the_interval_is_not_covered():
    state = watched(prediction(forecast=2.0), prediction(value=4.0, sequence=21))
    assert only(state).coverage == 0.0


def test_early_forecasts_are_shown_and_not_scored():
    state = watched(*(prediction(value=float(n), sequence=n) for n in range(1, UNSCORED_TICKS + 1)))
    assert only(state).scored == 0
    assert math.isnan(only(state).ratio)
    assert only(state).answered == UNSCORED_TICKS


def test_rejected_and_unusable_values_are_not_scored():
    state = watched(
        prediction(),
        prediction(value=900.0, outlier_rejected=True),
        prediction(value=math.nan, outlier_rejected=True),
        prediction(value=1.5, sequence=21),
    )
    assert only(state).scored == 0


def test_an_asset_in_two_partitions_is_two_rows():
    state = watched(prediction(source_partition=0), prediction(source_partition=3))
    assert len(state.rows("asset", 0)) == 2


def test_rows_come_in_the_order_asked_for_and_no_more_of_them():
    state = watched(
        prediction("b", value=0.0, forecast=0.0),
        prediction("a", value=0.0, forecast=5.0),
        prediction("b", value=1.0, sequence=21),
        prediction("a", value=1.0, sequence=21),
        prediction("c", sequence=90),
    )

    def names(order: str, top: int = 0) -> list[str]:
        return [row.score.latest["asset_id"] for row in state.rows(order, top)]

    assert names("asset") == ["a", "b", "c"]
    assert names("latest") == ["c", "a", "b"]
    assert names("worst") == ["a", "b", "c"]
    assert names("busiest") == ["a", "b", "c"]
    assert names("asset", 2) == ["a", "b"]


def test_no_asset_outweighs_another_by_its_unit():
    state = Watch()
    for asset, unit in (("small", 1.0), ("large", 1e6)):
        state.add(prediction(asset, value=0.0, forecast=0.5 * unit))
        state.add(prediction(asset, value=unit, sequence=21))
    assert state.total.ratio == pytest.approx(0.5)


def test_a_line_tells_the_forecast_and_what_is_wrong():
    text = line(only(watched(prediction(cusum_alarm=True, operating_mode="diagnostic"))))
    assert text.startswith("1970-01-01 00:20:00  a  value 1  next 1  [0, 2]  diagnostic")
    assert text.endswith("cusum")


def test_event_times_before_1970_are_shown():
    assert time_text(-1_500_000_000) == "1969-12-31 23:59:58.500"


def test_weights_are_bars_of_one_character():
    assert bar(0.0) == " "
    assert bar(1.0) == "█"
    assert bar(0.5) == "▄"
    assert bar(math.nan) == "?"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_the_table_fits_the_terminal(width):
    state = watched(*(prediction(f"asset-{n}") for n in range(5)))
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(state, View(False, 0, 0.0, "asset", 3), width))
    text = console.export_text()
    assert "asset-0" in text
    assert "and 2 more assets" in text
    assert ("95 % interval" in text) == (width >= 112)


def test_an_empty_table_says_what_it_waits_for():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(Watch(), View(False, 0, 0.0, "asset", 3), 100))
    assert "usp run" in console.export_text()


@pytest.fixture
def config() -> Iterator[Config]:
    with running_broker({}) as address:
        yield load(None, {"USP__KAFKA__BOOTSTRAP_SERVERS": address})


def test_committed_predictions_are_followed_and_aborted_ones_are_not(config):
    apply(config, partitions=2)
    encoder = PredictionEncoder(Framing.single_object())
    producer = Producer(
        {"bootstrap.servers": config.kafka.bootstrap_servers, "transactional.id": "t"}
    )
    producer.init_transactions(10)
    for value, end in ((1.0, producer.abort_transaction), (2.0, producer.commit_transaction)):
        producer.begin_transaction()
        payload = encoder.encode_record(prediction(value=value))
        producer.produce(config.topics.predictions, payload, "a", partition=1)
        producer.flush(10)
        end(10)

    view = View(True, 0, 0.0, "asset", 0)
    values = next(values for values in follow(config, view) if values)

    assert values == [encoder.encode_record(prediction(value=2.0))]


def test_a_missing_topic_is_told_with_the_remedy(config):
    with pytest.raises(UserError, match="usp topics apply") as caught:
        next(follow(config, View(True, 0, 0.0, "asset", 0)))
    assert caught.value.exit_code == ExitCode.PREFLIGHT
