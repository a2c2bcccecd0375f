"""Topics, records and offsets through librdkafka, without transactions."""

from __future__ import annotations

import random
import time

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)


def delivery_error(cluster, topic, value=b"x", **message):
    """The error of producing one message, or None."""
    reports = []
    config = message.pop("config", {})
    producer = cluster.producer(**config)
    producer.produce(topic, value, on_delivery=lambda error, _: reports.append(error), **message)
    producer.flush(10)
    return reports[0]


def config_of(cluster, topic):
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entries = cluster.admin.describe_configs([resource])[resource].result(10)
    return {name: entry.value for name, entry in entries.items()}


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("idempotent", [False, True])
def test_records_come_back_as_they_were_sent(cluster, codec, idempotent):
    topic = cluster.topic()
    producer = cluster.producer(
        compression_type=codec, enable_idempotence=idempotent, linger_ms=5, batch_size=20_000
    )
    values = [b"value %d " % index + b"." * 100 for index in range(1000)]

    for value in values:
        producer.produce(topic, value, b"key", headers={"name": b"header"}, partition=0)
    assert producer.flush(10) == 0
    found = cluster.read(topic, check_crcs=True)

    assert [message.value() for message in found] == values
    assert [message.offset() for message in found] == list(range(1000))
    assert found[0].key() == b"key"
    assert found[0].headers() == [("name", b"header")]


def test_a_tombstone_has_no_value(cluster):
    topic = cluster.topic()

    cluster.write(topic, None, key=b"gone")

    assert cluster.values(topic) == [None]


def test_an_unknown_topic_is_not_created(cluster):
    name = cluster.unique("unknown")

    error = delivery_error(cluster, name, config={"message.timeout.ms": 2000})

    assert error is not None
    assert name not in cluster.admin.list_topics(timeout=10).topics


def test_a_too_large_record_is_refused_and_the_next_one_is_not(cluster):
    topic = cluster.topic(max_message_bytes="1000")
    config = {"message.max.bytes": 2_000_000}

    refused = delivery_error(cluster, topic, b"x" * 2000, config=config)
    accepted = delivery_error(cluster, topic, b"x" * 500, config=config)

    assert refused.code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert accepted is None


def test_a_record_from_the_future_is_refused(cluster):
    now_ms = int(time.time() * 1000)

    error = delivery_error(cluster, cluster.topic(), timestamp=now_ms + 7_200_000)
    tolerated = delivery_error(
        cluster,
        cluster.topic(message_timestamp_after_max_ms=str(2**63 - 1)),
        timestamp=now_ms + 7_200_000,
    )

    assert error.code() == KafkaError.INVALID_TIMESTAMP
    assert tolerated is None


def test_log_append_time_replaces_the_producers_time(cluster):
    topic = cluster.topic(message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)

    cluster.write(topic, b"x", timestamp=1_000_000)
    message = cluster.read(topic, check_crcs=True)[0]

    kind, timestamp = message.timestamp()
    assert kind == 2  # log append time
    assert before <= timestamp <= int(time.time() * 1000)


def test_create_time_is_kept(cluster):
    topic = cluster.topic()

    cluster.write(topic, b"x", timestamp=1_000_000)

    assert cluster.read(topic)[0].timestamp() == (1, 1_000_000)


@pytest.mark.parametrize("codec", ["none", "lz4", "gzip"])
def test_offsets_are_found_by_time(cluster, codec):
    topic = cluster.topic()
    producer = cluster.producer(compression_type=codec, linger_ms=50)
    for index in range(100):
        producer.produce(topic, b"x" * 50, partition=0, timestamp=1_000_000 + 10 * index)
    producer.flush(10)
    consumer = cluster.consumer()

    def offset_at(timestamp):
        return consumer.offsets_for_times([TopicPartition(topic, 0, timestamp)], 10)[0].offset

    assert offset_at(0) == 0
    assert offset_at(1_000_500) == 50
    assert offset_at(1_000_501) == 51
    assert offset_at(2_000_000) == -1  # the end


def test_the_offset_of_the_largest_timestamp_is_found(cluster):
    topic = cluster.topic()
    for timestamp in (1_000_000, 3_000_000, 2_000_000):
        cluster.write(topic, b"x", timestamp=timestamp)
    partition = TopicPartition(topic, 0)

    found = cluster.admin.list_offsets({partition: OffsetSpec.max_timestamp()})[partition]

    assert (found.result(10).offset, found.result(10).timestamp) == (1, 3_000_000)


def test_an_empty_long_poll_wakes_as_soon_as_a_record_arrives(cluster):
    topic = cluster.topic()
    consumer = cluster.consumer(fetch_wait_max_ms=60_000)
    consumer.assign([TopicPartition(topic, 0, 0)])
    cluster.write(topic, b"first")
    assert cluster.eventually(lambda: consumer.poll(0.1))
    assert consumer.poll(0.3) is None  # the next fetch is waiting by now

    cluster.write(topic, b"second")
    message = consumer.poll(20)

    assert message is not None
    assert message.value() == b"second"


def test_an_offset_outside_the_log_is_an_error(cluster):
    topic = cluster.topic()
    cluster.write(topic, b"a")
    consumer = cluster.consumer(auto_offset_reset="error")
    consumer.assign([TopicPartition(topic, 0, 50)])

    message = cluster.eventually(lambda: consumer.poll(0.1))

    assert message.error().code() == KafkaError._AUTO_OFFSET_RESET


def test_deleted_records_move_the_start_of_the_log(cluster):
    topic = cluster.topic()
    cluster.write(topic, b"a", b"b", b"c")
    partition = TopicPartition(topic, 0, 2)

    cluster.admin.delete_records([partition])[partition].result(10)

    consumer = cluster.consumer()
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), 10) == (2, 3)
    assert cluster.values(topic, start=2) == [b"c"]


def test_topic_settings_are_stored_and_returned(cluster):
    topic = cluster.topic(
        cleanup_policy="compact", retention_ms="1000", segment_ms="5000", max_message_bytes="999"
    )

    config = config_of(cluster, topic)

    assert config["cleanup.policy"] == "compact"
    assert config["retention.ms"] == "1000"
    assert config["segment.ms"] == "5000"
    assert config["max.message.bytes"] == "999"
    assert config["message.timestamp.type"] == "CreateTime"


def test_a_setting_can_be_changed_and_reset_on_its_own(cluster):
    topic = cluster.topic(retention_ms="1000")

    def alter(name, value, operation):
        entry = ConfigEntry(name, value, incremental_operation=operation)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        cluster.admin.incremental_alter_configs([resource])[resource].result(10)

    alter("max.message.bytes", "2000", AlterConfigOpType.SET)
    alter("retention.ms", None, AlterConfigOpType.DELETE)

    config = config_of(cluster, topic)
    assert config["max.message.bytes"] == "2000"
    assert config["retention.ms"] == "604800000"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"cleanup.policy": "burn"}, KafkaError.INVALID_CONFIG),
        ({"no.such.setting": "1"}, KafkaError.INVALID_CONFIG),
    ],
)
def test_a_topic_with_a_wrong_setting_is_refused(cluster, settings, code):
    name = cluster.unique("topic")

    with pytest.raises(KafkaException) as raised:
        cluster.admin.create_topics([NewTopic(name, 1, 1, config=settings)])[name].result(10)

    assert raised.value.args[0].code() == code


def test_a_topic_is_created_once(cluster):
    topic = cluster.topic()

    with pytest.raises(KafkaException) as raised:
        cluster.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)

    assert raised.value.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS


def test_partitions_can_be_added(cluster):
    topic = cluster.topic(partitions=1)

    cluster.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(10)
    cluster.write(topic, b"new", partition=2)

    assert cluster.values(topic, partition=2) == [b"new"]


def test_a_deleted_topic_is_gone_and_can_be_made_again_empty(cluster):
    topic = cluster.topic()
    cluster.write(topic, b"old")

    cluster.admin.delete_topics([topic])[topic].result(10)
    assert topic not in cluster.admin.list_topics(timeout=10).topics
    cluster.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)

    assert cluster.values(topic) == []


def test_the_cluster_describes_itself_as_one_broker(cluster):
    description = cluster.admin.describe_cluster().result(10)

    assert len(description.nodes) == 1
    assert description.cluster_id == "usp-embedded-broker"


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_compaction_keeps_the_newest_value_of_every_key(cluster, codec):
    topic = cluster.topic(cleanup_policy="compact")
    producer = cluster.producer(compression_type=codec)
    noise = random.Random(1)  # large enough to be worth a compaction even when compressed
    expected = {}
    for _ in range(60):
        for key in range(20):
            expected[b"key %d" % key] = noise.randbytes(200)
            producer.produce(topic, expected[b"key %d" % key], b"key %d" % key, partition=0)
        assert producer.flush(10) == 0

    def compacted():
        found = cluster.read(topic)
        return found if len(found) < 400 else None

    newest = {message.key(): message.value() for message in cluster.eventually(compacted)}
    assert newest == expected


def test_compaction_ignores_aborted_values(cluster):
    topic = cluster.topic(cleanup_policy="compact")
    producer = cluster.transactional(cluster.unique("id"))
    for index in range(300):
        producer.begin_transaction()
        producer.produce(topic, b"%d " % index + b"." * 400, b"key", partition=0)
        producer.flush(10)
        producer.commit_transaction(10) if index < 200 else producer.abort_transaction(10)

    def compacted():
        found = cluster.read(topic)
        return found if len(found) < 100 else None

    assert cluster.eventually(compacted)[-1].value().startswith(b"199 ")


def test_retention_removes_old_records_where_it_is_set(cluster):
    topic = cluster.topic(retention_ms="3600000")
    day_ago = int(time.time() * 1000) - 86_400_000
    cluster.write(topic, b"old", timestamp=day_ago)
    cluster.write(topic, b"new")
    consumer = cluster.consumer()

    cluster.eventually(
        lambda: consumer.get_watermark_offsets(TopicPartition(topic, 0), 10) == (1, 2)
    )

    assert cluster.values(topic, start=1) == [b"new"]


def test_records_of_the_past_stay_by_default(cluster):
    topic, other = cluster.topic(), cluster.topic(retention_ms="3600000")
    long_ago = int(time.time() * 1000) - 10 * 365 * 86_400_000
    for name in (topic, other):
        cluster.write(name, b"historical", timestamp=long_ago)

    consumer = cluster.consumer()
    cluster.eventually(  # cleaning has passed over both topics
        lambda: consumer.get_watermark_offsets(TopicPartition(other, 0), 10) == (1, 1)
    )

    assert cluster.values(topic) == [b"historical"]
