"""Consumer groups through librdkafka: rebalances, static members, committed offsets."""

from __future__ import annotations

import pytest
from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)

STRATEGIES = ("range", "cooperative-sticky")


def partitions_of(consumer):
    return {partition.partition for partition in consumer.assignment()}


def poll_all(consumers):
    for consumer in consumers:
        message = consumer.poll(0.02)
        assert message is None or not message.error(), message.error()


def settled(consumers, partitions):
    """Whether the consumers share the partitions out among them, each having some."""
    poll_all(consumers)
    shares = [partitions_of(consumer) for consumer in consumers]
    return (
        all(shares)
        and sum(map(len, shares)) == partitions
        and set.union(*shares) == set(range(partitions))
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_then_three_consumers_share_the_partitions(cluster, strategy):
    topic, group = cluster.topic(partitions=6), cluster.unique("group")
    consumers = []

    for _ in range(3):
        consumer = cluster.consumer(group, partition_assignment_strategy=strategy)
        consumer.subscribe([topic])
        consumers.append(consumer)
        cluster.eventually(lambda: settled(consumers, 6))

    assert [len(partitions_of(consumer)) for consumer in consumers] == [2, 2, 2]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_partitions_of_a_consumer_that_leaves_move_at_once(cluster, strategy):
    topic, group = cluster.topic(partitions=4), cluster.unique("group")
    stays, leaves = (
        cluster.consumer(group, partition_assignment_strategy=strategy) for _ in range(2)
    )
    for consumer in (stays, leaves):
        consumer.subscribe([topic])
    cluster.eventually(lambda: settled([stays, leaves], 4))

    cluster.close(leaves)

    cluster.eventually(lambda: settled([stays], 4), seconds=5)


def test_partitions_of_a_silent_consumer_move_when_its_session_expires(cluster):
    topic, group = cluster.topic(partitions=2), cluster.unique("group")
    # A static member says nothing when it closes, so the broker only notices its silence.
    silent = cluster.consumer(group, group_instance_id="silent", session_timeout_ms=1000)
    other = cluster.consumer(group, session_timeout_ms=6000)
    for consumer in (silent, other):
        consumer.subscribe([topic])
    cluster.eventually(lambda: settled([silent, other], 2))

    cluster.close(silent)

    cluster.eventually(lambda: settled([other], 2))


def test_a_static_member_comes_back_without_a_rebalance(cluster):
    topic, group = cluster.topic(partitions=4), cluster.unique("group")
    rebalances = []

    def member(name):
        consumer = cluster.consumer(
            group,
            group_instance_id=name,
            session_timeout_ms=10_000,
            partition_assignment_strategy="cooperative-sticky",
        )
        consumer.subscribe([topic], on_assign=lambda _, given: rebalances.append((name, given)))
        return consumer

    stays, restarts = member("stays"), member("restarts")
    cluster.eventually(lambda: settled([stays, restarts], 4))
    share = partitions_of(restarts)
    generation = stays.consumer_group_metadata()
    rebalances.clear()

    cluster.close(restarts)
    again = member("restarts")
    cluster.eventually(lambda: settled([stays, again], 4))

    assert partitions_of(again) == share
    assert [name for name, _ in rebalances] == ["restarts"]
    producer = cluster.transactional(cluster.unique("id"))
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], generation, 10)
    producer.commit_transaction(10)  # the generation of the one that stayed is still in force


def test_a_second_member_with_the_same_instance_id_fences_the_first(cluster):
    topic, group = cluster.topic(), cluster.unique("group")
    first = cluster.consumer(group, group_instance_id="twin")
    first.subscribe([topic])
    cluster.eventually(lambda: settled([first], 1))
    stale = first.consumer_group_metadata()

    second = cluster.consumer(group, group_instance_id="twin")
    second.subscribe([topic])
    cluster.eventually(lambda: settled([second], 1))
    message = cluster.eventually(lambda: first.poll(0.1))

    assert message.error().code() == KafkaError._FATAL
    producer = cluster.transactional(cluster.unique("id"))
    producer.begin_transaction()
    with pytest.raises(KafkaException) as raised:
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], stale, 10)
    assert raised.value.args[0].code() == KafkaError.FENCED_INSTANCE_ID


def test_a_restarted_consumer_goes_on_at_the_committed_offset(cluster):
    topic, group = cluster.topic(), cluster.unique("group")
    cluster.write(topic, b"a", b"b", b"c")
    first = cluster.consumer(group)
    first.subscribe([topic])
    cluster.eventually(lambda: first.poll(0.1))
    first.commit(offsets=[TopicPartition(topic, 0, 1, "note")], asynchronous=False)
    cluster.close(first)

    second = cluster.consumer(group)
    second.subscribe([topic])
    message = cluster.eventually(lambda: second.poll(0.1))

    assert message.value() == b"b"
    assert second.committed([TopicPartition(topic, 0)], 10)[0].metadata == "note"


def test_a_consumer_can_rewind(cluster):
    topic = cluster.topic()
    cluster.write(topic, b"a", b"b", b"c")
    consumer = cluster.consumer()
    consumer.subscribe([topic])
    read = []
    cluster.eventually(
        lambda: ((message := consumer.poll(0.1)) and read.append(message.value())) or len(read) == 3
    )

    consumer.seek(TopicPartition(topic, 0, 1))

    assert cluster.eventually(lambda: consumer.poll(0.1)).value() == b"b"


def test_groups_can_be_listed_described_and_deleted(cluster):
    topic, group = cluster.topic(partitions=2), cluster.unique("group")
    consumer = cluster.consumer(group, client_id="describe me")
    consumer.subscribe([topic])
    cluster.eventually(lambda: settled([consumer], 2))
    consumer.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)

    listed = cluster.admin.list_consumer_groups().result(10).valid
    description = cluster.admin.describe_consumer_groups([group])[group].result(10)
    with pytest.raises(KafkaException) as raised:
        cluster.admin.delete_consumer_groups([group])[group].result(10)
    cluster.close(consumer)

    assert group in {one.group_id for one in listed}
    assert description.state == ConsumerGroupState.STABLE
    assert [member.client_id for member in description.members] == ["describe me"]
    assert {p.partition for p in description.members[0].assignment.topic_partitions} == {0, 1}
    assert raised.value.args[0].code() == KafkaError.NON_EMPTY_GROUP
    cluster.admin.delete_consumer_groups([group])[group].result(10)
    assert group not in {
        one.group_id for one in cluster.admin.list_consumer_groups().result(10).valid
    }


def test_offsets_of_an_empty_group_can_be_set_and_read_by_an_administrator(cluster):
    topic, group = cluster.topic(), cluster.unique("group")
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 42)])

    cluster.admin.alter_consumer_group_offsets([wanted])[group].result(10)

    asked = ConsumerGroupTopicPartitions(group)
    found = cluster.admin.list_consumer_group_offsets([asked])[group].result(10)
    assert [(one.topic, one.offset) for one in found.topic_partitions] == [(topic, 42)]
