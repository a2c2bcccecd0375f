"""`scripts/kafka` and `scripts/registry` as their users meet them."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from live_services import (
    CHECKOUT,
    Broker,
    DaemonScript,
    RealBroker,
    end_abandoned_sessions,
)


@pytest.fixture
def kafka(real_broker: Broker, tmp_path: Path) -> Iterator[DaemonScript]:
    """A broker of the test's own, not started yet. `real_broker` shows that Java is there."""
    # A blank in the path must not matter.
    script = DaemonScript("kafka", tmp_path / "its state")
    yield script
    script.run("stop")


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """Somebody else's server; its port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_start_prints_the_same_address_while_the_broker_runs(kafka):
    first = kafka.run("start", "--port", "0")

    assert kafka.run("start") == first
    assert kafka.run("start", "--port", str(port_of(first) + 1)) == first


def test_starts_at_the_same_time_give_one_broker(kafka):
    command = [CHECKOUT / "scripts" / "kafka", "start", "--port", "0", "--state", kafka.state]

    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    addresses = [start.communicate(timeout=120)[0] for start in starts]

    assert len(set(addresses)) == 1
    assert addresses[0].strip() == kafka.status()["address"]


def test_a_foreign_listener_keeps_its_port(kafka):
    with listener() as port:
        address = kafka.run("start", "--port", str(port))

    assert port_of(address) != port


def test_a_foreign_listener_on_the_controllers_port_is_left_alone(kafka):
    with listener() as port:
        address = kafka.run("start", "--port", str(port - 1))

    assert kafka.status()["address"] == address


def test_the_daemon_holds_nothing_of_its_caller(kafka, tmp_path):
    inherited = tmp_path / "inherited"
    with inherited.open("w") as file:
        subprocess.run(
            [CHECKOUT / "scripts" / "kafka", "start", "--port", "0", "--state", kafka.state],
            # Were the pipe's end to stay open in the daemon, this would not return.
            capture_output=True,
            timeout=120,
            check=True,
            pass_fds=[file.fileno()],
        )

    pid = int(kafka.status()["pid"])
    assert os.getsid(pid) == pid
    if Path("/proc/self/fd").exists():
        descriptors = Path(f"/proc/{pid}/fd").iterdir()
        assert str(inherited) not in {os.readlink(descriptor) for descriptor in descriptors}


def test_a_process_that_was_given_the_recorded_pid_survives(kafka):
    kafka.run("start", "--port", "0")
    record = kafka.state / "daemon.json"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        truth = record.read_text()
        record.write_text(truth.replace(kafka.status()["pid"], str(bystander.pid)))

        kafka.run("kill9")
        kafka.run("stop")

        assert bystander.poll() is None
        record.write_text(truth)
        bystander.communicate(b"\n")


def test_a_copy_of_the_run_state_does_not_own_the_broker(kafka, tmp_path):
    kafka.run("start", "--port", "0")
    copy = DaemonScript("kafka", tmp_path / "copy")
    copy.state.mkdir()
    shutil.copy(kafka.state / "daemon.json", copy.state)

    copy.run("kill9")

    assert copy.status() == {}
    assert kafka.status() != {}


def test_a_crashed_broker_comes_back_on_its_port_with_its_data(kafka):
    broker = RealBroker(kafka, kafka.run("start", "--port", "0"))
    topic = broker.create_topic("topic")
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    producer.produce(topic, b"kept")
    assert producer.flush(30) == 0

    began = time.monotonic()
    broker.restart()

    # With the default session of the controller it would take 12 s; the rest is for busy machines.
    assert time.monotonic() - began < 30
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "group"})
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30) == (0, 1)
    consumer.close()


def test_wipe_ends_the_broker_and_forgets_its_data(kafka):
    broker = RealBroker(kafka, kafka.run("start", "--port", "0"))
    broker.create_topic("topic")

    kafka.run("wipe")

    assert kafka.status() == {}
    assert [entry.name for entry in kafka.state.iterdir()] == ["lock"]


def test_daemons_of_a_killed_session_are_ended_by_the_next(kafka, monkeypatch, tmp_path):
    monkeypatch.setattr("live_services.SESSIONS", tmp_path / "sessions")
    abandoned = DaemonScript("kafka", tmp_path / "sessions" / "abandoned" / "kafka")
    port = port_of(abandoned.run("start", "--port", "0"))
    (abandoned.state.parent / "owner").touch()

    end_abandoned_sessions()

    assert not abandoned.state.parent.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_session_that_lives_keeps_its_daemons(monkeypatch, tmp_path):
    monkeypatch.setattr("live_services.SESSIONS", tmp_path / "sessions")
    living = tmp_path / "sessions" / "living"
    living.mkdir(parents=True)

    with (living / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        end_abandoned_sessions()

    assert living.exists()


@pytest.mark.parametrize("name", ["kafka", "registry"])
def test_a_machine_without_java_is_told_what_to_install(name, tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)

    answer = subprocess.run(
        [CHECKOUT / "scripts" / name, "start", "--state", tmp_path / "state"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert (answer.returncode, answer.stdout) == (4, "")
    assert answer.stderr.splitlines() == [
        f"scripts/{name}: java not found; install a JRE 17 or newer "
        "(Debian: openjdk-17-jre-headless) or set JAVA_HOME"
    ]


@pytest.mark.parametrize("name", ["kafka", "registry"])
def test_a_machine_without_maven_is_told_what_to_install(name, tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    java.chmod(0o755)
    (tmp_path / "sh").symlink_to("/bin/sh")

    answer = subprocess.run(
        [CHECKOUT / "scripts" / name, "start", "--state", tmp_path / "state"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert answer.returncode == 4
    assert "mvn not found; install Maven (Debian: maven)" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def ask(method: str, url: str, body: dict[str, str] | None = None) -> dict[str, object]:
    """Send one request of the registry's REST protocol and return its answer.

    Raises:
        urllib.error.HTTPError: the registry refuses.
    """
    request = urllib.request.Request(
        url,
        method=method,
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_the_registry_refuses_an_incompatible_schema(registry_url, unique_name):
    subject = unique_name("subject")
    versions = f"{registry_url}/subjects/{subject}/versions"
    number, text = (
        {"schema": json.dumps({"type": "record", "name": "R", "fields": [field]})}
        for field in ({"name": "a", "type": "int"}, {"name": "a", "type": "string"})
    )

    identity = ask("POST", versions, number)["id"]
    ask("PUT", f"{registry_url}/config/{subject}", {"compatibility": "BACKWARD_TRANSITIVE"})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        ask("POST", versions, text)

    assert refusal.value.code == 409
    assert ask("GET", f"{versions}/latest")["id"] == identity
    assert json.loads(ask("GET", f"{registry_url}/schemas/ids/{identity}")["schema"])["name"] == "R"
