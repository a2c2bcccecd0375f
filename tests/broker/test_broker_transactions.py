"""Transactions through librdkafka: what readers see, what fences, what times out."""

from __future__ import annotations

import pytest
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec


def true_end(cluster, topic, isolation_level=IsolationLevel.READ_UNCOMMITTED):
    partition = TopicPartition(topic, 0)
    futures = cluster.admin.list_offsets(
        {partition: OffsetSpec.latest()}, isolation_level=isolation_level
    )
    return futures[partition].result(10).offset


def assigned_consumer(cluster, topic, **config):
    """A consumer of `topic` that has its partitions."""
    consumer = cluster.consumer(**config)
    consumer.subscribe([topic])
    cluster.eventually(lambda: consumer.poll(0.1) or consumer.assignment())
    return consumer


def test_committed_records_are_read_and_aborted_ones_are_not(cluster):
    topic = cluster.topic()
    producer = cluster.transactional(cluster.unique("id"))

    for value, commit in ((b"first", True), (b"lost", False), (b"second", True)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(10)
        producer.commit_transaction(10) if commit else producer.abort_transaction(10)

    assert cluster.values(topic) == [b"first", b"second"]
    assert cluster.values(topic, isolation_level="read_uncommitted") == [
        b"first",
        b"lost",
        b"second",
    ]


def test_open_records_are_hidden_until_the_commit(cluster):
    topic = cluster.topic()
    producer = cluster.transactional(cluster.unique("id"))
    producer.begin_transaction()
    producer.produce(topic, b"open")
    producer.flush(10)

    before = cluster.values(topic)
    producer.commit_transaction(10)

    assert before == []
    assert cluster.values(topic) == [b"open"]


def test_records_behind_an_open_transaction_wait_for_it(cluster):
    topic = cluster.topic()
    slow, quick = (cluster.transactional(cluster.unique("id")) for _ in range(2))
    slow.begin_transaction()
    slow.produce(topic, b"slow")
    slow.flush(10)
    quick.begin_transaction()
    quick.produce(topic, b"quick")
    quick.commit_transaction(10)

    before = cluster.values(topic)
    slow.abort_transaction(10)

    assert before == []
    assert cluster.values(topic) == [b"quick"]


def test_interleaved_transactions_are_told_apart_by_producer(cluster):
    topic = cluster.topic()
    keeper, loser = (cluster.transactional(cluster.unique("id")) for _ in range(2))
    keeper.begin_transaction()
    loser.begin_transaction()
    for index in range(5):
        for producer, name in ((keeper, "kept"), (loser, "lost")):
            producer.produce(topic, f"{name} {index}")
            producer.flush(10)

    loser.abort_transaction(10)
    keeper.commit_transaction(10)

    assert cluster.values(topic) == [b"kept %d" % index for index in range(5)]


def test_end_of_partition_and_watermarks_stop_at_the_last_stable_offset(cluster):
    topic = cluster.topic()
    cluster.write(topic, b"a", b"b")
    producer = cluster.transactional(cluster.unique("id"))
    producer.begin_transaction()
    producer.produce(topic, b"open")
    producer.flush(10)

    consumer = cluster.consumer()
    _, committed_end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 10)

    assert len(cluster.read(topic)) == 2  # up to the end that the consumer was told
    assert committed_end == 2
    assert true_end(cluster, topic, IsolationLevel.READ_COMMITTED) == 2
    assert true_end(cluster, topic) == 3
    producer.abort_transaction(10)
    cluster.eventually(  # with the marker
        lambda: true_end(cluster, topic, IsolationLevel.READ_COMMITTED) == 4
    )


def test_offsets_in_a_transaction_are_visible_after_the_commit_only(cluster):
    topic, output = cluster.topic(), cluster.topic()
    cluster.write(topic, b"tick")
    consumer = assigned_consumer(cluster, topic)
    producer = cluster.transactional(cluster.unique("id"))

    def commit_in_transaction(offset, commit):
        producer.begin_transaction()
        producer.produce(output, b"result")
        partition = TopicPartition(topic, 0, offset)
        producer.send_offsets_to_transaction([partition], consumer.consumer_group_metadata(), 10)
        producer.commit_transaction(10) if commit else producer.abort_transaction(10)
        return consumer.committed([TopicPartition(topic, 0)], 10)[0].offset

    assert commit_in_transaction(1, commit=False) < 0
    assert commit_in_transaction(1, commit=True) == 1


def test_committed_waits_while_a_transaction_may_change_the_offset(cluster):
    topic = cluster.topic()
    consumer = assigned_consumer(cluster, topic)
    producer = cluster.transactional(cluster.unique("id"))
    producer.begin_transaction()
    producer.send_offsets_to_transaction(
        [TopicPartition(topic, 0, 5)], consumer.consumer_group_metadata(), 10
    )

    with pytest.raises(KafkaException) as raised:
        consumer.committed([TopicPartition(topic, 0)], 0.3)
    producer.commit_transaction(10)

    assert raised.value.args[0].code() in (
        KafkaError._TIMED_OUT,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    )
    assert consumer.committed([TopicPartition(topic, 0)], 10)[0].offset == 5


def test_offset_metadata_comes_back_from_committed(cluster):
    topic = cluster.topic()
    consumer = assigned_consumer(cluster, topic)
    producer = cluster.transactional(cluster.unique("id"))
    note = "x" * 4095  # the client sends one more character than it is given, a final NUL

    producer.begin_transaction()
    producer.send_offsets_to_transaction(
        [TopicPartition(topic, 0, 20, note)], consumer.consumer_group_metadata(), 10
    )
    producer.commit_transaction(10)

    committed = consumer.committed([TopicPartition(topic, 0)], 10)[0]
    assert (committed.offset, committed.metadata) == (20, note)


def test_too_long_offset_metadata_can_be_aborted(cluster):
    topic = cluster.topic()
    consumer = assigned_consumer(cluster, topic)
    producer = cluster.transactional(cluster.unique("id"))
    producer.begin_transaction()

    with pytest.raises(KafkaException) as raised:
        producer.send_offsets_to_transaction(
            [TopicPartition(topic, 0, 20, "x" * 4096)], consumer.consumer_group_metadata(), 10
        )

    assert raised.value.args[0].code() == KafkaError.OFFSET_METADATA_TOO_LARGE
    assert raised.value.args[0].txn_requires_abort()
    producer.abort_transaction(10)
    assert consumer.committed([TopicPartition(topic, 0)], 10)[0].offset < 0


def test_a_second_producer_with_the_same_id_fences_the_first(cluster):
    topic, name = cluster.topic(), cluster.unique("id")
    first = cluster.transactional(name)
    first.begin_transaction()
    first.produce(topic, b"from the first")
    first.flush(10)

    second = cluster.transactional(name)
    second.begin_transaction()
    second.produce(topic, b"from the second")
    second.commit_transaction(10)
    with pytest.raises(KafkaException) as raised:
        first.commit_transaction(10)

    assert raised.value.args[0].fatal()
    assert raised.value.args[0].code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
    assert cluster.values(topic) == [b"from the second"]


def test_a_restarted_producer_aborts_what_its_predecessor_left_open(cluster):
    topic, name = cluster.topic(), cluster.unique("id")
    first = cluster.transactional(name)
    first.begin_transaction()
    first.produce(topic, b"left open")
    first.flush(10)

    cluster.transactional(name)

    assert cluster.values(topic) == []
    assert true_end(cluster, topic, IsolationLevel.READ_COMMITTED) == 2


def test_offsets_from_a_lost_generation_are_refused(cluster):
    topic, group = cluster.topic(partitions=2), cluster.unique("group")
    consumer = assigned_consumer(cluster, topic, group_id=group)
    stale = consumer.consumer_group_metadata()
    newcomer = cluster.consumer(group_id=group)
    newcomer.subscribe([topic])
    cluster.eventually(
        lambda: (consumer.poll(0.05), newcomer.poll(0.05), newcomer.assignment())[-1]
    )

    producer = cluster.transactional(cluster.unique("id"))
    producer.begin_transaction()
    with pytest.raises(KafkaException) as raised:
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], stale, 10)

    assert raised.value.args[0].code() == KafkaError.ILLEGAL_GENERATION
    assert raised.value.args[0].txn_requires_abort()


def test_a_transaction_that_takes_too_long_is_aborted_and_releases_readers(cluster):
    topic = cluster.topic()
    producer = cluster.transactional(cluster.unique("id"), transaction_timeout_ms=1000)
    producer.begin_transaction()
    producer.produce(topic, b"abandoned")
    producer.flush(10)
    cluster.write(topic, b"behind")

    cluster.eventually(lambda: cluster.values(topic) == [b"behind"])
    with pytest.raises(KafkaException) as raised:
        producer.commit_transaction(10)

    assert raised.value.args[0].fatal() or raised.value.args[0].txn_requires_abort()
    assert cluster.values(topic) == [b"behind"]


def test_a_take_over_finds_the_committed_offset_at_once(cluster):
    topic, group, name = cluster.topic(), cluster.unique("group"), cluster.unique("id")
    consumer = assigned_consumer(cluster, topic, group_id=group)
    killed = cluster.transactional(name)
    killed.begin_transaction()
    killed.send_offsets_to_transaction(
        [TopicPartition(topic, 0, 9)], consumer.consumer_group_metadata(), 10
    )

    cluster.transactional(name)

    assert consumer.committed([TopicPartition(topic, 0)], 10)[0].offset < 0
