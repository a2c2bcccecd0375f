"""Topics and ticks, on the embedded broker and on a real Kafka."""

import time

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from live_services import wait_until

from pipeline.cluster import Cluster
from pipeline.config import Config, load
from pipeline.errors import ExitCode, UserError
from pipeline.produce import Pace, produce
from pipeline.sources import TickFile
from pipeline.synthetic import series
from pipeline.topics import NO_LIMIT, apply, plan, preflight
from schemas.codec import decode_record

NEW_YEAR_1990_MS = 631_152_000_000
DAY_MS = 86_400_000
OUTPUTS = ("predictions", "telemetry", "events", "snapshots", "dead_letters")


@pytest.fixture
def config(broker, unique_name) -> Config:
    """A configuration of its own: topics that no other test has."""
    return config_of(broker, unique_name)


def config_of(broker, unique_name, registry_url: str = "") -> Config:
    names = {f"USP__TOPICS__{name.upper()}": unique_name(name) for name in ("ticks", *OUTPUTS)}
    return load(
        None,
        {
            "USP__KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "USP__SCHEMAS__REGISTRY_URL": registry_url,
            **names,
        },
    )


def send(config: Config, batches, record_time="production"):
    return produce(config, batches, Pace(), record_time, lambda count: None)


def read_back(config: Config, partitions: int, count: int) -> list:
    consumer = Consumer(
        {"bootstrap.servers": config.kafka.bootstrap_servers, "group.id": "reads-only"}
    )
    topic = config.topics.ticks
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    messages = []
    deadline = time.monotonic() + 20.0
    while len(messages) < count and time.monotonic() < deadline:
        messages += [m for m in consumer.consume(1000, 0.1) if m.error() is None]
    consumer.close()
    return messages


def test_apply_makes_topics_that_pass_the_preflight_at_once(config):
    steps, _ = apply(config, partitions=3)

    assert [step.action for step in steps] == ["create"] * 6
    assert preflight(config, 10.0).partitions == 3
    assert {step.action for step in plan(config, Cluster(config))} == {"keep"}


def test_the_broker_keeps_the_settings_that_it_was_given(config):
    apply(config, partitions=2)
    topics = config.topics

    found = Cluster(config).settings([topics.predictions, topics.snapshots, topics.dead_letters])

    for settings in found.values():
        assert settings["message.timestamp.type"] == "CreateTime"
        assert settings["message.timestamp.after.max.ms"] == NO_LIMIT
        assert int(settings["segment.ms"]) >= 365 * DAY_MS
    assert found[topics.snapshots]["cleanup.policy"] == "compact"
    assert found[topics.predictions]["cleanup.policy"] == "delete"
    assert int(found[topics.dead_letters]["max.message.bytes"]) > 1_048_588 + 1_000_000


def test_apply_mends_what_a_change_of_settings_can_mend(broker, config):
    broker.create_topic(config.topics.ticks, 2, {"retention.ms": "-1"})
    broker.create_topic(config.topics.snapshots, 2, {"cleanup.policy": "delete"})
    broker.create_topic(config.topics.predictions, 2, {"message.timestamp.type": "LogAppendTime"})

    apply(config)

    def mended() -> bool:
        return {step.action for step in plan(config, Cluster(config))} == {"keep"}

    wait_until(mended, "the changed settings")
    settings = Cluster(config).settings([config.topics.predictions])[config.topics.predictions]
    assert settings["message.timestamp.type"] == "CreateTime"
    assert settings["retention.ms"] == "-1"


def test_apply_refuses_what_it_cannot_mend_and_changes_nothing(broker, config):
    broker.create_topic(config.topics.ticks, 2)
    broker.create_topic(config.topics.events, 3)

    with pytest.raises(UserError) as caught:
        apply(config)

    assert caught.value.exit_code == ExitCode.PREFLIGHT
    assert config.topics.predictions not in Cluster(config).topics(10.0)


def test_more_replicas_than_brokers_are_refused_in_one_line(config):
    with pytest.raises(UserError) as caught:
        apply(config, replication=3)
    assert caught.value.exit_code == ExitCode.PREFLIGHT
    assert "\n" not in str(caught.value)


def test_ticks_of_many_assets_arrive_once_and_in_order(config):
    apply(config, partitions=3)

    done = send(config, series(["ar1"], 20, 500, seed=1))

    messages = read_back(config, 3, 10_000)
    assert done.failed == 0
    assert len(messages) == done.ticks == 10_000
    latest: dict[str, int] = {}
    for message in messages:
        tick = decode_record("tick", message.value())
        assert latest.get(tick["asset_id"], 0) < tick["timestamp_ns"]
        latest[tick["asset_id"]] = tick["timestamp_ns"]
    assert len(latest) == 20


def test_history_of_1990_stays_in_a_topic_with_an_ordinary_retention(config, tmp_path):
    apply(config, partitions=2)
    path = tmp_path / "history.csv"
    path.write_text("date,ticker,close\n1990-01-01,AA,1.5\n1990-01-02,AA,2.5\n")

    send(config, TickFile(path).batches())

    messages = read_back(config, 2, 2)
    ticks = [decode_record("tick", message.value()) for message in messages]
    assert [tick["timestamp_ns"] // 10**6 for tick in ticks] == [
        NEW_YEAR_1990_MS,
        NEW_YEAR_1990_MS + DAY_MS,
    ]
    assert all(message.timestamp()[1] > time.time() * 1000 - 60_000 for message in messages)


def test_event_times_become_kafka_times_where_the_topic_keeps_for_ever(broker, config, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("date,ticker,close\n1990-01-01,AA,1.5\n1990-01-02,AA,2.5\n")
    broker.create_topic(config.topics.ticks, 2, {"retention.ms": "-1"})

    done = send(config, TickFile(path).batches(), record_time="event")

    assert done.failed == 0
    stamps = [message.timestamp()[1] for message in read_back(config, 2, 2)]
    assert stamps == [NEW_YEAR_1990_MS, NEW_YEAR_1990_MS + DAY_MS]


def test_event_times_are_refused_where_kafka_would_delete_them(broker, config, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("date,close\n1990-01-01,1.5\n")
    apply(config, partitions=2)

    with pytest.raises(UserError, match=r"retention\.ms"):
        send(config, TickFile(path).batches(), record_time="event")


def test_schemas_are_registered_and_ticks_carry_the_registered_id(
    broker, unique_name, registry_url
):
    config = config_of(broker, unique_name, registry_url)
    with pytest.raises(UserError, match="no such topic"):
        send(config, series(["ar1"], 1, 1, seed=1))
    apply(load_without_registry(config), partitions=1)
    with pytest.raises(UserError, match="usp topics apply") as caught:
        send(config, series(["ar1"], 1, 1, seed=1))
    assert caught.value.exit_code == ExitCode.PREFLIGHT

    _, ids = apply(config)
    again = apply(config)[1]
    send(config, series(["ar1"], 1, 3, seed=1))

    assert len(ids) == 4
    assert again == ids
    header = b"\x00" + ids[f"{config.topics.ticks}-value"].to_bytes(4, "big")
    assert all(m.value().startswith(header) for m in read_back(config, 1, 3))


def load_without_registry(config: Config) -> Config:
    """The same configuration without a registry."""
    schemas = msgspec.structs.replace(config.schemas, registry_url="")
    return msgspec.structs.replace(config, schemas=schemas)
