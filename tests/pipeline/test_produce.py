"""Ticks into the input topic of an embedded broker, and back."""

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.broker import running_broker
from pipeline.config import Config, load
from pipeline.errors import ExitCode, UserError
from pipeline.produce import Pace, Schedule, produce
from pipeline.sources import TickFile
from pipeline.synthetic import series
from pipeline.ticks import TickBatch, limited
from schemas.codec import decode_record

SECOND = 10**9
NEW_YEAR_1990_MS = 631_152_000_000
PARTITIONS = 3


@pytest.fixture
def config() -> Iterator[Config]:
    with running_broker({}) as address:
        config = load(None, {"USP__KAFKA__BOOTSTRAP_SERVERS": address})
        create(config)
        yield config


def create(config: Config, name: str | None = None, **settings: str) -> None:
    name = name or config.topics.ticks
    admin = AdminClient({"bootstrap.servers": config.kafka.bootstrap_servers})
    dotted = {key.replace("_", "."): value for key, value in settings.items()}
    admin.create_topics([NewTopic(name, PARTITIONS, 1, config=dotted)])[name].result()


AT_ONCE = Pace()


def send(config, batches, pace=AT_ONCE, record_time="production"):
    return produce(config, batches, pace, record_time, lambda count: None)


def read_back(config: Config, count: int) -> list:
    consumer = Consumer({"bootstrap.servers": config.kafka.bootstrap_servers, "group.id": "reader"})
    topic = config.topics.ticks
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    messages = []
    deadline = time.monotonic() + 10.0
    while len(messages) < count and time.monotonic() < deadline:
        messages += [m for m in consumer.consume(1000, 0.1) if m.error() is None]
    consumer.close()
    return messages


def batch(*ticks: tuple[str, float, int]) -> TickBatch:
    ids, values, stamps = zip(*ticks, strict=True)
    return TickBatch(list(ids), np.array(values, float), np.array(stamps, np.int64))


def test_ticks_arrive_complete_and_in_order_per_asset(config):
    done = send(config, series(["ar1", "ou"], 5, 400, seed=1))
    messages = read_back(config, 4000)

    assert done.summary()["ticks"] == len(messages) == 4000
    assert done.summary()["assets"] == 10
    assert done.failed == 0
    expected = {asset: [] for asset in done.latest}
    for each in series(["ar1", "ou"], 5, 400, seed=1):
        for asset, value in zip(each.asset_ids, each.magnitudes.tolist(), strict=True):
            expected[asset].append(value)
    seen = {asset: [] for asset in expected}
    for message in messages:
        tick = decode_record("tick", message.value())
        assert message.key().decode() == tick["asset_id"]
        seen[tick["asset_id"]].append(tick["magnitude"])
    assert seen == expected


def test_assets_lie_where_java_producers_place_them(config):
    # murmur2 of "21", "foobar" and "abc", as in Kafka's own tests, without the sign bit.
    hashes = {"21": -973_932_308, "foobar": -790_332_482, "abc": 479_470_107}
    send(config, [batch(*((key, 1.0, 1) for key in hashes))])
    found = {message.key().decode(): message.partition() for message in read_back(config, 3)}
    assert found == {key: (value & 0x7FFFFFFF) % PARTITIONS for key, value in hashes.items()}


def test_history_of_1990_is_produced_with_its_event_time_and_the_present_kafka_time(
    config, tmp_path
):
    path = tmp_path / "history.csv"
    path.write_text("date,close\n1990-01-01,1.5\n1990-01-02,2.5\n")
    before = time.time() * 1000 - 1

    send(config, TickFile(path).batches())

    messages = read_back(config, 2)
    ticks = [decode_record("tick", message.value()) for message in messages]
    assert [tick["timestamp_ns"] for tick in ticks] == [
        NEW_YEAR_1990_MS * 10**6,
        (NEW_YEAR_1990_MS + 86_400_000) * 10**6,
    ]
    assert all(message.timestamp()[1] >= before for message in messages)


def test_event_times_as_kafka_times_need_a_topic_that_keeps_for_ever(config):
    with pytest.raises(UserError) as caught:
        send(config, [batch(("a", 1.0, NEW_YEAR_1990_MS * 10**6))], record_time="event")
    assert caught.value.exit_code == ExitCode.PREFLIGHT
    assert "retention.ms" in str(caught.value)
    assert read_back_nothing(config)


def read_back_nothing(config: Config) -> bool:
    consumer = Consumer({"bootstrap.servers": config.kafka.bootstrap_servers, "group.id": "reader"})
    partitions = [TopicPartition(config.topics.ticks, number) for number in range(PARTITIONS)]
    ends = [consumer.get_watermark_offsets(partition, timeout=5)[1] for partition in partitions]
    consumer.close()
    return not any(ends)


def test_event_times_become_kafka_times_where_the_topic_keeps_for_ever(config):
    other = load(
        None,
        {
            "USP__KAFKA__BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers,
            "USP__TOPICS__TICKS": "history",
        },
    )
    create(config, "history", retention_ms="-1")
    send(other, [batch(("a", 1.0, NEW_YEAR_1990_MS * 10**6))], record_time="event")
    assert read_back(other, 1)[0].timestamp()[1] == NEW_YEAR_1990_MS


@pytest.mark.parametrize(
    ("settings", "stamp_ns", "says"),
    [
        ({}, -SECOND, "before 1970"),
        ({}, time.time_ns() + 7200 * SECOND, "message.timestamp.after.max.ms"),
        (
            {"message_timestamp_before_max_ms": "1000"},
            NEW_YEAR_1990_MS * 10**6,
            "message.timestamp.before.max.ms",
        ),
        ({"message_timestamp_type": "LogAppendTime"}, SECOND, "LogAppendTime"),
    ],
)
def test_event_times_that_the_topic_would_refuse_are_explained(config, settings, stamp_ns, says):
    create(config, "history", retention_ms="-1", **settings)
    environment = {
        "USP__KAFKA__BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers,
        "USP__TOPICS__TICKS": "history",
    }
    with pytest.raises(UserError, match=says) as caught:
        send(load(None, environment), [batch(("a", 1.0, stamp_ns))], record_time="event")
    assert caught.value.exit_code == ExitCode.PREFLIGHT


def test_a_missing_topic_is_told_with_the_remedy(config):
    environment = {
        "USP__KAFKA__BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers,
        "USP__TOPICS__TICKS": "nowhere",
    }
    with pytest.raises(UserError, match="usp topics apply") as caught:
        send(load(None, environment), [batch(("a", 1.0, 1))])
    assert caught.value.exit_code == ExitCode.PREFLIGHT


def test_ticks_that_are_too_large_are_counted_and_the_others_delivered(config):
    done = send(config, [batch(("a" * 1_100_000, 1.0, 1), ("b", 1.0, 1))])
    assert done.summary()["ticks"] == 1
    assert done.failed == 1
    assert done.reason


def test_ticks_that_lie_back_in_time_are_counted(config):
    done = send(config, [batch(("a", 1.0, 5), ("b", 1.0, 1), ("a", 1.0, 4), ("a", 1.0, 6))])
    assert done.back_in_time == 1


def test_the_rate_is_kept(config):
    began = time.monotonic()
    send(config, limited(series(["ar1"], 1, 300, seed=1), 150), Pace(rate=300.0))
    assert time.monotonic() - began > 0.45


def test_a_replay_keeps_the_distances_of_event_time():
    schedule = Schedule(Pace(speed=10.0), now=100.0)
    due = schedule.due(batch(("a", 1, 0), ("b", 1, 5 * SECOND), ("a", 1, 3 * SECOND)))
    assert due.tolist() == [100.0, 100.5, 100.5]
    assert schedule.due(batch(("a", 1, 20 * SECOND))).tolist() == [102.0]


def test_without_a_pace_nothing_waits():
    assert Schedule(Pace(), now=0.0).due(batch(("a", 1, 0))) is None


def test_a_limit_cuts_inside_a_batch():
    sizes = [len(each) for each in limited(iter([batch(("a", 1, 1), ("a", 1, 2))] * 3), 3)]
    assert sizes == [2, 1]
    assert sum(len(each) for each in limited(iter([batch(("a", 1, 1))] * 3), 0)) == 3


def test_many_assets_spread_over_all_partitions(config):
    send(config, series(["white_noise"], 200, 1, seed=1))
    spread = Counter(message.partition() for message in read_back(config, 200))
    assert set(spread) == set(range(PARTITIONS))
