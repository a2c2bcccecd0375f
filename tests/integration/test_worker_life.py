"""The worker as a process: stops at every stage of its life, and settings that no client takes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer
from worker_rig import PARTITIONS, STOP_SECONDS, Rig, WorkerProcess, wait_for

# -- stops before there is anything to stop --------------------------------------------------------


def started(worker: WorkerProcess) -> None:
    """Wait until the process catches SIGTERM; before that Python ends it, and nothing has begun."""
    status = Path(f"/proc/{worker.process.pid}/status")
    if not status.exists():
        pytest.skip("this system has no /proc, which tells whether a process catches a signal")
    bit = 1 << (signal.SIGTERM - 1)

    def catches() -> bool:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) & bit)

    wait_for(catches, "handler of SIGTERM")


def test_a_stop_while_the_device_compiles_ends_in_time(make_rig, tmp_path):
    rig = make_rig(USP__DEVICE__COMPILATION_CACHE=str(tmp_path / "cold"))
    worker = rig.start("only")
    started(worker)

    assert worker.terminate() == 0
    assert worker.events("ready_to_join") == []


def test_a_stop_while_the_broker_is_awaited_ends_in_time(make_rig):
    rig = make_rig()
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and says nothing
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        worker = rig.start("only", USP__KAFKA__BOOTSTRAP_SERVERS=address)
        started(worker)

        assert worker.terminate() == 0


def test_a_stop_while_the_registry_is_awaited_ends_in_time(make_rig):
    rig = make_rig()
    worker = rig.start("only", USP__SCHEMAS__REGISTRY_URL="http://127.0.0.1:1")
    started(worker)

    assert worker.terminate() == 0


@pytest.mark.parametrize("event", ["ready_to_join", "joined", "assigned"])
def test_a_stop_while_the_group_is_joined_ends_in_time(make_rig, event):
    rig = make_rig()
    worker = rig.start("only")
    worker.wait_for_event(event)

    assert worker.terminate() == 0
    assert worker.events("stopped")


def test_a_stop_during_a_restore_that_cannot_end_ends_in_time(make_rig):
    rig = make_rig()
    pin = Producer(
        {
            "bootstrap.servers": rig.bootstrap,
            "transactional.id": f"{rig.application}.pin",
            "log_level": 0,
        }
    )
    pin.init_transactions(10)
    pin.begin_transaction()
    pin.produce(rig.topics["snapshots"], b"void", b"stranger", partition=0)
    pin.flush(10)
    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS - 1)

    assert worker.terminate() == 0
    assert worker.events("stopped")
    pin.abort_transaction(10)


# -- stops under load ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_come_twice_under_load_end_the_worker_once_and_well(make_rig, number):
    rig = make_rig()
    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS)
    rig.send_walks(assets=30, ticks=4000, seed=1)
    rig.read(0.5)

    worker.process.send_signal(number)
    worker.process.send_signal(number)
    code = worker.process.wait(STOP_SECONDS)
    rig.start("only")
    rig.read_until_answered()

    assert code == 0
    assert worker.events("stopped_by_deadline") == []
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


def test_a_stop_in_the_face_of_a_frozen_broker_ends_in_time(real_broker, unique_name, tmp_path):
    rig = Rig(real_broker.bootstrap_servers, unique_name("frozen"), tmp_path)
    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS)
    rig.send_walks(assets=30, ticks=6000, seed=1)
    wait_for(lambda: bool(rig.read() or rig.outputs.predictions), "the first answers")

    with real_broker.frozen():
        code = worker.terminate()
    rig.start("only")
    rig.read_until_answered()
    rig.close()

    assert code == 0
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


# -- settings --------------------------------------------------------------------------------------

COMMANDS = {
    "run": ["run"],
    "topics": ["topics", "plan"],
    "produce": ["produce", "--synthetic", "ar1", "--ticks", "1"],
    "watch": ["watch", "--timeout", "0.1"],
}


def refused(rig: Rig, command: list[str], **settings: str) -> str:
    """The one line with which a command refuses its configuration."""
    answer = subprocess.run(
        [sys.executable, "-m", "pipeline", *command],
        env=rig.environment("only", **settings),
        cwd=rig.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = answer.stderr.strip().splitlines()[-1]
    assert answer.returncode == 3, answer.stderr
    assert last.startswith("usp: ")
    assert "Traceback" not in answer.stderr
    return last


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("NO_SUCH_SETTING", "1"), ("SOCKET_TIMEOUT_MS", "soon"), ("ON_DELIVERY", "me")],
)
def test_a_setting_that_librdkafka_refuses_is_named_by_every_command(
    embedded_broker, unique_name, tmp_path, command, name, value
):
    rig = Rig(embedded_broker.bootstrap_servers, unique_name("settings"), tmp_path)

    line = refused(rig, COMMANDS[command], **{f"USP__KAFKA__EXTRA__{name}": value})

    assert line.startswith(f"usp: kafka.extra.{name.lower()}: ")


def test_a_setting_that_only_the_workers_producer_refuses_is_named_too(make_rig):
    line = refused(make_rig(), ["run"], USP__KAFKA__EXTRA__MESSAGE_TIMEOUT_MS="60000")

    assert line.startswith("usp: kafka.extra.message_timeout_ms: ")
