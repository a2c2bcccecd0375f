"""What strangers and broken clients can do to the broker, and how it is run."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import struct
import subprocess
import sys

import pytest

from pipeline.broker import Broker, admin_requests, running_broker
from pipeline.broker.protocol import APIS, MalformedRequest, Request
from pipeline.broker.server import _HANDLERS


@pytest.fixture
def connection(bootstrap_servers):
    host, port = bootstrap_servers.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connected:
        yield connected


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def header(key: int, version: int, correlation: int = 7) -> bytes:
    return struct.pack(">hhi", key, version, correlation) + struct.pack(">h", 4) + b"test"


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def receive(connection: socket.socket) -> bytes:
    def exactly(size: int) -> bytes:
        received = b""
        while len(received) < size:
            chunk = connection.recv(size - len(received))
            assert chunk, "the connection was closed"
            received += chunk
        return received

    return exactly(struct.unpack(">i", exactly(4))[0])


@pytest.mark.parametrize(
    "bytes_sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="http"),
        pytest.param(struct.pack(">i", -1), id="negative size"),
        pytest.param(struct.pack(">i", 2**31 - 1), id="huge size"),
        pytest.param(framed(header(3, 5) + struct.pack(">i", 2**31 - 1)), id="huge array"),
        pytest.param(framed(header(3, 5) + struct.pack(">ih", 1, 500) + b"x"), id="long string"),
        pytest.param(framed(header(3, 5) + struct.pack(">ih", 1, 2) + b"\xff\xfe"), id="not UTF-8"),
        pytest.param(framed(header(0, 7)), id="empty produce"),
        pytest.param(framed(header(11, 5) + b"\0" * 3), id="short join"),
        pytest.param(framed(header(22, 4) + b"\0" + b"\xff" * 12), id="endless varint"),
        pytest.param(framed(header(68, 0)), id="newer group protocol"),
        pytest.param(framed(header(9999, 0)), id="unknown request"),
        pytest.param(framed(header(0, 99)), id="unknown version"),
    ],
)
def test_nonsense_closes_its_own_connection_only(cluster, connection, bytes_sent):
    topic = cluster.topic()

    connection.sendall(bytes_sent)

    assert is_closed(connection)
    cluster.write(topic, b"still here")
    assert cluster.values(topic) == [b"still here"]


def test_random_requests_do_not_hurt_others(cluster, bootstrap_servers):
    topic, noise = cluster.topic(), random.Random(1)
    host, port = bootstrap_servers.split(":")
    waiting = {"fetch", "join_group", "sync_group"}

    for api in APIS.values():
        for _ in range(5):
            version = noise.randint(api.lowest, api.highest)
            body = header(api.key, version) + noise.randbytes(noise.randint(0, 60))
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(framed(body))
                if api.name not in waiting:
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass

    cluster.write(topic, b"still here")
    assert cluster.values(topic) == [b"still here"]


def test_a_damaged_batch_is_refused_as_corrupt(cluster, connection):
    topic = cluster.topic().encode()
    name = struct.pack(">h", len(topic)) + topic
    damaged = b"\0" * 80
    connection.sendall(
        framed(
            header(0, 3)
            + struct.pack(">hhi", -1, -1, 1000)
            + struct.pack(">i", 1)
            + name
            + struct.pack(">iii", 1, 0, len(damaged))
            + damaged
        )
    )

    error = struct.unpack_from(">h", receive(connection), 4 + 4 + len(name) + 4 + 4)[0]

    assert error in (2, 43)  # corrupt, or of a format before magic 2


def test_a_too_new_question_for_the_versions_is_answered_with_the_supported_ones(connection):
    connection.sendall(framed(header(18, 99)))

    answer = receive(connection)

    correlation, error, count = struct.unpack_from(">ihi", answer)
    ranges = [struct.unpack_from(">hhh", answer, 10 + 6 * index) for index in range(count)]
    assert (correlation, error) == (7, 35)
    assert 68 not in [key for key, _, _ in ranges]  # no ConsumerGroupHeartbeat
    assert (0, APIS[0].lowest, APIS[0].highest) in ranges


def test_an_error_in_a_handler_closes_one_connection_and_is_logged(monkeypatch, caplog):
    def fail(node, request):
        raise RuntimeError("planted")

    with running_broker() as address:
        host, port = address.split(":")
        monkeypatch.setitem(_HANDLERS, "metadata", fail)
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(framed(header(3, 5) + struct.pack(">ib", -1, 0)))
            assert is_closed(connection)
        monkeypatch.undo()
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(framed(header(3, 5) + struct.pack(">ib", -1, 0)))
            assert receive(connection)

    assert "planted" in caplog.text


def test_every_supported_request_has_a_handler():
    assert set(_HANDLERS) == {api.name for api in APIS.values()}


def test_a_request_longer_than_allowed_closes_the_connection():
    with running_broker(largest_request=1000) as address:
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(struct.pack(">i", 1001))
            assert is_closed(connection)


def test_topics_are_created_on_demand_only_where_that_is_wanted():
    def topics_after_asking(partitions):
        broker = Broker(auto_create_partitions=partitions)
        body = struct.pack(">ih", 1, 4) + b"made" + b"\x01"
        admin_requests.metadata(broker.node, Request(body, version=5))
        return {topic.name: len(topic.partitions) for topic in broker.node.topics}

    assert topics_after_asking(0) == {}
    assert topics_after_asking(3) == {"made": 3}


def test_a_length_past_the_end_is_malformed():
    with pytest.raises(MalformedRequest):
        Request(b"\x00\x09short").string()


def test_a_broker_in_a_running_event_loop_can_be_stopped():
    async def run():
        broker = Broker()
        broker.create_topic("ticks", 2)
        with pytest.raises(ValueError, match="TOPIC_ALREADY_EXISTS"):
            broker.create_topic("ticks", 2)
        address = await broker.start()
        reader, writer = await asyncio.open_connection(*address.split(":"))
        await broker.stop()
        assert await reader.read() == b""
        writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_its_address_and_ends_with_status_zero(number):
    from confluent_kafka.admin import AdminClient

    arguments = ["--topic", "ticks:3", "--topic", "snapshots:2:compact"]
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.broker", *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            address = process.stdout.readline().strip()
            admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
            topics = admin.list_topics(timeout=10).topics
            process.send_signal(number)

            assert process.wait(10) == 0
        finally:
            process.kill()

    assert {name: len(topic.partitions) for name, topic in topics.items()} == {
        "ticks": 3,
        "snapshots": 2,
    }


def test_the_command_refuses_a_topic_that_it_does_not_understand():
    outcome = subprocess.run(
        [sys.executable, "-m", "pipeline.broker", "--topic", "ticks"],
        capture_output=True,
        text=True,
        timeout=10,
    )

    assert outcome.returncode == 2
    assert "NAME:PARTITIONS" in outcome.stderr
