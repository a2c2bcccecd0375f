"""What the worker relies on in a broker, held by the embedded one and by a real Apache Kafka alike.

Every test runs on both. A fact that only one of them shows is a fault of the embedded broker.
"""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec
from live_services import Broker, wait_until

# The broker takes 4,096 characters (offset.metadata.max.bytes), and the Python client sends one
# more than it is given, a final NUL.
LONGEST_METADATA = "x" * 4_095


class Clients:
    """Clients of one broker, configured as the worker's are, and closed together."""

    def __init__(self, broker: Broker, unique_name: Callable[[str], str]) -> None:
        self.broker = broker
        self.name = unique_name
        self._open = contextlib.ExitStack()

    def close(self) -> None:
        self._open.close()

    def producer(self, role: str = "worker", **settings: object) -> Producer:
        """A transactional producer that has fenced its predecessors of the same role."""
        producer = Producer(
            {
                "bootstrap.servers": self.broker.bootstrap_servers,
                "transactional.id": self.name(role),
                "transaction.timeout.ms": 10_000,
                "retry.backoff.ms": 5,
                "linger.ms": 0,
                "log_level": 0,
            }
            | settings
        )
        producer.init_transactions(30)
        return producer

    def consumer(self, group: str = "group", **settings: object) -> Consumer:
        """A consumer that reads committed records and commits nothing by itself."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.broker.bootstrap_servers,
                "group.id": self.name(group),
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 10,
                "session.timeout.ms": 6_000,
                "heartbeat.interval.ms": 500,
                "log_level": 0,
            }
            | settings
        )
        self._open.callback(consumer.close)
        return consumer

    def member(self, topic: str, **settings: object) -> Consumer:
        """A consumer that has joined its group and owns partitions of the topic."""
        consumer = self.consumer(**settings)
        consumer.subscribe([topic])
        self.poll_until(lambda: consumer.assignment(), "an assignment", consumer)
        return consumer

    @staticmethod
    def poll_until(condition: Callable[[], object], what: str, *consumers: Consumer) -> None:
        """Keep consumers alive in their group, without using what they read, until it holds."""

        def polled() -> object:
            for consumer in consumers:
                consumer.poll(0.05)
            return condition()

        wait_until(polled, what)

    def settle(self, topic: str) -> None:
        """Wait until no transaction is open on partition 0.

        A commit or an abort returns once it is decided; its markers reach the partitions later.
        """
        wait_until(lambda: self.stable_end(topic) == self.true_end(topic), "the markers")

    def read_settled(self, topic: str, isolation_level: str = "read_committed") -> list[bytes]:
        """Return the values of partition 0 when every transaction has ended there."""
        self.settle(topic)
        return self.read(topic, isolation_level)

    def read(self, topic: str, isolation_level: str = "read_committed") -> list[bytes]:
        """Return the values of partition 0 up to the end that this isolation level sees now."""
        reader = self.consumer(
            "reader", **{"isolation.level": isolation_level, "enable.partition.eof": True}
        )
        reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        return [message.value() for message in until_end(reader)]

    def true_end(self, topic: str) -> int:
        """Return the end of partition 0 with everything that is not committed yet."""
        partition = TopicPartition(topic, 0)
        answer = self.broker.admin.list_offsets(
            {partition: OffsetSpec.latest()},
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=10,
        )
        return answer[partition].result().offset

    def stable_end(self, topic: str) -> int:
        """Return the last stable offset of partition 0."""
        reader = self.consumer("reader")
        return reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]


@pytest.fixture
def clients(broker: Broker, unique_name: Callable[[str], str]) -> Iterator[Clients]:
    clients = Clients(broker, unique_name)
    yield clients
    clients.close()


@pytest.fixture
def topic(clients: Clients) -> str:
    """A topic with one partition."""
    return clients.broker.create_topic(clients.name("topic"))


def until_end(reader: Consumer) -> Iterator[Message]:
    """Read an assigned partition until the broker says that there is no more."""
    while True:
        message = reader.poll(30)
        assert message is not None, "neither a record nor the end within 30 s"
        if message.error() is None:
            yield message
        elif message.error().code() == KafkaError._PARTITION_EOF:
            return
        else:
            raise KafkaException(message.error())


def send_offset(
    producer: Producer, consumer: Consumer, topic: str, offset: int, metadata: str = ""
) -> None:
    """Add one offset of partition 0, in the name of the consumer's group."""
    position = TopicPartition(topic, 0, offset, metadata=metadata)
    producer.send_offsets_to_transaction([position], consumer.consumer_group_metadata(), 30)


def commit_or_abort(producer: Producer, topic: str, value: bytes) -> bool:
    """Produce one record in a transaction; return False if it had to be aborted."""
    producer.begin_transaction()
    producer.produce(topic, value, partition=0)
    try:
        producer.commit_transaction(30)
    except KafkaException as error:
        if not error.args[0].txn_requires_abort():
            raise
        producer.abort_transaction(30)
        return False
    return True


def committed(consumer: Consumer, topic: str, timeout: float = 30) -> TopicPartition:
    return consumer.committed([TopicPartition(topic, 0)], timeout=timeout)[0]


def test_records_and_offsets_appear_together_at_the_commit(clients, topic):
    producer, consumer = clients.producer(), clients.consumer()

    producer.begin_transaction()
    producer.produce(topic, b"one", partition=0)
    producer.produce(topic, b"two", partition=0)
    producer.flush(30)
    before = clients.read(topic), committed(consumer, topic).offset
    send_offset(producer, consumer, topic, 42)
    producer.commit_transaction(30)

    assert before == ([], OFFSET_INVALID)
    assert clients.read_settled(topic) == [b"one", b"two"]
    assert committed(consumer, topic).offset == 42


def test_an_aborted_transaction_leaves_neither_records_nor_offsets(clients, topic):
    producer, consumer = clients.producer(), clients.consumer()

    producer.begin_transaction()
    producer.produce(topic, b"aborted", partition=0)
    producer.flush(30)
    send_offset(producer, consumer, topic, 42)
    producer.abort_transaction(30)
    producer.begin_transaction()
    producer.produce(topic, b"kept", partition=0)
    producer.commit_transaction(30)

    assert clients.read_settled(topic) == [b"kept"]
    assert clients.read(topic, "read_uncommitted") == [b"aborted", b"kept"]
    assert committed(consumer, topic).offset == OFFSET_INVALID


def test_transactions_that_interleave_on_a_partition_are_told_apart(clients, topic):
    first, second = clients.producer("first"), clients.producer("second")
    for producer in (first, second):
        producer.begin_transaction()

    for number in range(3):
        first.produce(topic, b"first %d" % number, partition=0)
        first.flush(30)
        second.produce(topic, b"second %d" % number, partition=0)
        second.flush(30)
    second.commit_transaction(30)
    # The second is committed, but stands behind the first, which is still open.
    between = clients.read(topic)
    first.abort_transaction(30)

    assert between == []
    assert clients.read_settled(topic) == [b"second 0", b"second 1", b"second 2"]


def test_offset_metadata_travels_inside_the_transaction(clients, topic):
    producer, consumer = clients.producer(), clients.consumer()

    producer.begin_transaction()
    send_offset(producer, consumer, topic, 7, metadata=LONGEST_METADATA)
    producer.commit_transaction(30)
    producer.begin_transaction()
    send_offset(producer, consumer, topic, 8, metadata="aborted")
    producer.abort_transaction(30)

    position = committed(consumer, topic)
    assert (position.offset, position.metadata) == (7, LONGEST_METADATA)


def test_offset_metadata_that_is_too_long_can_be_aborted_and_survived(clients, topic):
    producer, consumer = clients.producer(), clients.consumer()

    producer.begin_transaction()
    with pytest.raises(KafkaException) as refusal:
        send_offset(producer, consumer, topic, 7, metadata=LONGEST_METADATA + "x")
    producer.abort_transaction(30)
    producer.begin_transaction()
    send_offset(producer, consumer, topic, 8, metadata="short")
    producer.commit_transaction(30)

    error = refusal.value.args[0]
    assert error.code() == KafkaError.OFFSET_METADATA_TOO_LARGE
    assert error.txn_requires_abort()
    assert not error.fatal()
    assert committed(consumer, topic).offset == 8


def test_offsets_of_an_open_transaction_are_waited_for(clients, topic):
    producer, consumer = clients.producer(), clients.consumer()
    producer.begin_transaction()
    send_offset(producer, consumer, topic, 1)
    producer.commit_transaction(30)

    producer.begin_transaction()
    send_offset(producer, consumer, topic, 2)
    with pytest.raises(KafkaException) as unstable:
        committed(consumer, topic, timeout=1)
    producer.commit_transaction(30)

    # Neither the old offset nor the pending one is shown: the owner could still decide either way.
    assert unstable.value.args[0].code() in {
        KafkaError._TIMED_OUT,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
    assert committed(consumer, topic).offset == 2


def test_a_second_producer_of_the_same_id_fences_the_first(clients, topic):
    first = clients.producer()
    first.begin_transaction()
    first.produce(topic, b"zombie", partition=0)
    first.flush(30)

    second = clients.producer()
    with pytest.raises(KafkaException) as fenced:
        first.commit_transaction(30)
    second.begin_transaction()
    second.produce(topic, b"successor", partition=0)
    second.commit_transaction(30)

    error = fenced.value.args[0]
    assert error.fatal()
    assert error.code() in {KafkaError._FENCED, KafkaError.PRODUCER_FENCED}
    assert clients.read_settled(topic) == [b"successor"]


def test_a_fenced_producer_cannot_commit_offsets(clients, topic):
    first, consumer = clients.producer(), clients.consumer()
    first.begin_transaction()

    clients.producer()
    with pytest.raises(KafkaException) as fenced:
        send_offset(first, consumer, topic, 42)

    assert fenced.value.args[0].fatal()
    assert committed(consumer, topic).offset == OFFSET_INVALID


def test_the_true_end_is_seen_past_an_open_transaction(clients, topic):
    producer, owner = clients.producer("other"), clients.producer("owner")
    producer.begin_transaction()
    producer.produce(topic, b"committed", partition=0)
    producer.commit_transaction(30)
    clients.settle(topic)
    stable = clients.true_end(topic)

    owner.begin_transaction()
    owner.produce(topic, b"open", partition=0)
    owner.flush(30)
    producer.begin_transaction()
    producer.produce(topic, b"committed behind it", partition=0)
    producer.commit_transaction(30)

    # The open record, the committed one and its commit marker.
    wait_until(lambda: clients.true_end(topic) == stable + 3, "the commit marker")
    # Under read_committed both the reader's end and the watermark are the last stable offset; a
    # restore that stopped there would miss the last record.
    assert clients.read(topic) == [b"committed"]
    assert clients.stable_end(topic) == stable

    owner.abort_transaction(30)
    assert clients.read_settled(topic) == [b"committed", b"committed behind it"]


def test_the_end_that_a_fetch_reports_is_the_true_one(clients, topic):
    producer = clients.producer()
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    producer.flush(30)
    reader = clients.consumer("reader", **{"enable.partition.eof": True})
    partition = TopicPartition(topic, 0, OFFSET_BEGINNING)
    reader.assign([partition])

    records = list(until_end(reader))

    assert records == []
    assert reader.get_watermark_offsets(partition, cached=True)[1] == 1
    producer.abort_transaction(30)


def test_taking_over_the_id_of_a_dead_owner_releases_its_transaction(clients, topic):
    # Long enough that the time-out of the transaction cannot be what releases it.
    owner = clients.producer(**{"transaction.timeout.ms": 60_000})
    owner.begin_transaction()
    owner.produce(topic, b"left open", partition=0)
    owner.flush(30)
    assert clients.stable_end(topic) == 0

    clients.producer()

    # The record and the abort marker.
    wait_until(lambda: clients.stable_end(topic) == 2, "the last stable offset to move", 10)
    assert clients.read(topic) == []


def test_a_transaction_that_outlives_its_time_out_is_aborted(clients, topic):
    producer = clients.producer(**{"transaction.timeout.ms": 1_000})
    producer.begin_transaction()
    producer.produce(topic, b"too late", partition=0)
    producer.flush(30)

    wait_until(lambda: clients.stable_end(topic) == 2, "the broker to abort", 15)
    with pytest.raises(KafkaException) as expired:
        producer.commit_transaction(30)

    assert not expired.value.args[0].retriable()
    assert clients.read(topic) == []


def test_offsets_of_a_past_generation_are_refused(clients):
    topic = clients.broker.create_topic(clients.name("topic"), partitions=2)
    producer = clients.producer()
    first = clients.member(topic)
    past = first.consumer_group_metadata()

    second = clients.consumer()
    second.subscribe([topic])
    clients.poll_until(lambda: second.assignment(), "the rebalance", first, second)
    producer.begin_transaction()
    with pytest.raises(KafkaException) as refusal:
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 42)], past, 30)
    producer.abort_transaction(30)

    error = refusal.value.args[0]
    assert error.code() == KafkaError.ILLEGAL_GENERATION
    assert error.txn_requires_abort()
    assert committed(clients.consumer("group"), topic).offset == OFFSET_INVALID


def test_offsets_of_the_present_generation_are_taken(clients, topic):
    producer, member = clients.producer(), clients.member(topic)

    producer.begin_transaction()
    producer.produce(topic, b"output", partition=0)
    send_offset(producer, member, topic, 3, metadata="floor")
    producer.commit_transaction(30)

    position = committed(member, topic)
    assert (position.offset, position.metadata) == (3, "floor")


def test_a_static_member_that_returns_fences_its_former_self(clients, topic):
    settings = {"group.instance.id": clients.name("instance")}
    producer, former = clients.producer(), clients.member(topic, **settings)
    past = former.consumer_group_metadata()

    returned = clients.member(topic, **settings)
    producer.begin_transaction()
    with pytest.raises(KafkaException) as refusal:
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 42)], past, 30)
    producer.abort_transaction(30)

    assert refusal.value.args[0].code() == KafkaError.FENCED_INSTANCE_ID
    assert refusal.value.args[0].txn_requires_abort()
    assert committed(returned, topic).offset == OFFSET_INVALID


def test_a_record_above_the_topics_limit_can_be_aborted_and_survived(clients):
    topic = clients.broker.create_topic(clients.name("topic"), config={"max.message.bytes": "2000"})
    producer = clients.producer()

    producer.begin_transaction()
    producer.produce(topic, b"x" * 5_000, partition=0)
    with pytest.raises(KafkaException) as refusal:
        producer.commit_transaction(30)
    producer.abort_transaction(30)
    attempts = 1
    while not commit_or_abort(producer, topic, b"x" * 500):
        attempts += 1

    assert refusal.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert refusal.value.args[0].txn_requires_abort()
    # librdkafka counts the refused record; the broker may answer the next transaction with
    # OUT_OF_ORDER_SEQUENCE_NUMBER, which is abortable too, and after which the counts agree.
    assert attempts <= 2
    assert clients.read_settled(topic) == [b"x" * 500]


def test_a_position_past_the_end_is_an_error_not_a_new_start(clients, topic):
    reader = clients.consumer()
    reader.assign([TopicPartition(topic, 0, 1_000)])

    message = reader.poll(30)

    assert message is not None
    assert message.error().code() == KafkaError._AUTO_OFFSET_RESET


def test_key_headers_and_timestamp_of_a_record_come_back_unchanged(clients):
    # Records of 1970 are past any retention, and deleted within seconds where there is one.
    topic = clients.broker.create_topic(clients.name("topic"), config={"retention.ms": "-1"})
    producer = clients.producer()
    headers = [("usp.input", b"ticks/0/1"), ("empty", b""), ("null", None)]

    producer.begin_transaction()
    producer.produce(
        topic, b"\x00\xff", key="Ærø".encode(), partition=0, timestamp=1234, headers=headers
    )
    producer.produce(topic, None, key=b"tombstone", partition=0, timestamp=5678)
    producer.commit_transaction(30)

    clients.settle(topic)
    reader = clients.consumer("reader", **{"enable.partition.eof": True})
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    record, tombstone = until_end(reader)
    assert (record.key(), record.value()) == ("Ærø".encode(), b"\x00\xff")
    assert record.headers() == headers
    assert record.timestamp()[1] == 1234
    assert (tombstone.key(), tombstone.value()) == (b"tombstone", None)


def test_a_topic_that_nobody_created_does_not_come_into_being(clients):
    name = clients.name("missing")

    reader = clients.consumer()
    with pytest.raises(KafkaException):
        reader.get_watermark_offsets(TopicPartition(name, 0), timeout=2)

    assert name not in clients.broker.admin.list_topics(timeout=10).topics
