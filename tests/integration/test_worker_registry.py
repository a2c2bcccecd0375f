"""The worker with a real schema registry, and with one that goes away."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import fastavro
import pytest
from worker_rig import BASE_NS, PARTITIONS, SECOND_NS, Rig, reasons, wait_for

from pipeline.registry import INPUT_COMPATIBILITY, Registry, subject_of
from schemas.codec import load_schema


class Gate:
    """A TCP forwarder to the registry that can be shut."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.open = True
        port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{parts.path}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                client.close()
                continue
            upstream = socket.create_connection(self._target)
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while (data := source.recv(65536)) and self.open:
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def rig(broker, registry_url, unique_name, tmp_path) -> Iterator[Rig]:
    gate = Gate(registry_url)
    made = Rig(
        broker.bootstrap_servers,
        unique_name("registry"),
        tmp_path,
        USP__SCHEMAS__REGISTRY_URL=gate.url,
    )
    made.gate = gate
    made.registry = Registry(registry_url)
    yield made
    made.close()
    gate.close()


def usp(rig: Rig, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        env=rig.environment("cli"),
        cwd=rig.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def framed(schema_id: int, schema: dict, record: dict) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), record)
    return b"\x00" + schema_id.to_bytes(4, "big") + buffer.getvalue()


def send(rig: Rig, schema_id: int, schema: dict, asset: str, number: int) -> None:
    record = {
        "asset_id": asset,
        "magnitude": float(number % 9),
        "timestamp_ns": BASE_NS + number * SECOND_NS,
        "venue": "x",
    }
    rig.send_raw(asset.encode(), framed(schema_id, schema, record), number % PARTITIONS)


def evolved_schema() -> dict:
    schema = load_schema("tick")
    venue = {"name": "venue", "type": "string", "default": "", "doc": "where it was traded"}
    return {**schema, "fields": [*schema["fields"], venue]}


def test_without_registered_schemas_the_worker_names_the_command_that_helps(rig):
    worker = rig.start("only")

    assert worker.ended() == 4
    assert "run `usp topics apply`" in worker.text


def test_an_unreachable_registry_ends_the_start_with_one_line(rig):
    rig.gate.open = False

    worker = rig.start("only", USP__WORKER__STARTUP_TIMEOUT_SECONDS="2")
    code = worker.ended()

    last = worker.text.strip().splitlines()[-1]
    assert code == 4
    assert last.startswith("usp: schemas.registry_url: ")
    assert "Traceback" not in worker.text


def test_ticks_and_outputs_are_framed_with_registered_ids(rig):
    applied = usp(rig, "topics", "apply", "--json")
    ids = json.loads(applied.stdout)["subjects"]
    rig.start("only")
    for number in range(120):
        send(rig, ids[subject_of(rig.topics["ticks"])], load_schema("tick"), "one", number)
    for partition in range(PARTITIONS):
        rig.send_raw(b"one", b"\x00\x7f\xff\xff\xf0payload", partition)
    rig.producer.flush()
    frames = []

    def done() -> bool:
        frames[:] = rig.eyes(rig.topics["predictions"])
        return len(frames) == 120

    wait_for(done, "120 predictions")
    letters = rig.eyes(rig.topics["dead_letters"])

    prediction_id = ids[subject_of(rig.topics["predictions"])]
    assert {frame.value()[:5] for frame in frames} == {b"\x00" + prediction_id.to_bytes(4, "big")}
    assert reasons(letters) == {"unknown_schema_id": PARTITIONS}


def test_an_absent_registry_pauses_the_partition_of_an_unknown_id_and_nothing_else(rig):
    ids = json.loads(usp(rig, "topics", "apply", "--json").stdout)["subjects"]
    known = ids[subject_of(rig.topics["ticks"])]
    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS)
    for number in range(40):
        send(rig, known, load_schema("tick"), f"asset-{number % PARTITIONS}", number)
    rig.producer.flush()
    wait_for(lambda: len(rig.eyes(rig.topics["predictions"])) == 40, "40 predictions")
    evolved = evolved_schema()
    new = rig.registry.register(
        subject_of(rig.topics["ticks"]), json.dumps(evolved), INPUT_COMPATIBILITY
    )
    assert isinstance(new, int)

    rig.gate.open = False
    send(rig, new, evolved, "asset-0", 40)
    for number in range(41, 60):
        send(rig, known, load_schema("tick"), f"asset-{number % PARTITIONS}", number)
    rig.producer.flush()
    behind = sum(1 for number in range(41, 60) if number % PARTITIONS == 0)
    others = 40 + (59 - 40) - behind
    wait_for(lambda: len(rig.eyes(rig.topics["predictions"])) == others, "other partitions")
    worker.wait_for_event("registry_waits")
    paused = len(rig.eyes(rig.topics["predictions"]))
    rig.gate.open = True
    wait_for(lambda: len(rig.eyes(rig.topics["predictions"])) == 60, "all predictions")

    assert paused == others
    assert worker.process.poll() is None
    assert rig.eyes(rig.topics["dead_letters"]) == []


def test_what_an_unknown_id_hid_stays_hidden_in_a_replay(rig):
    ids = json.loads(usp(rig, "topics", "apply", "--json").stdout)["subjects"]
    known = ids[subject_of(rig.topics["ticks"])]
    worker = rig.start("only", USP__SNAPSHOT__EVERY_TICKS="1000")
    for number in range(8):
        send(rig, known, load_schema("tick"), "one", number * PARTITIONS)
    rig.send_raw(
        b"one",
        framed(
            known + 1000,
            load_schema("tick"),
            {"asset_id": "one", "magnitude": 5.0, "timestamp_ns": BASE_NS + 33 * SECOND_NS},
        ),
        0,
    )
    for number in range(9, 16):
        send(rig, known, load_schema("tick"), "one", number * PARTITIONS)
    rig.producer.flush()
    wait_for(lambda: len(rig.eyes(rig.topics["predictions"])) == 15, "15 predictions")
    worker.kill()

    worker = rig.start("only", USP__SNAPSHOT__EVERY_TICKS="1000")
    worker.wait_for_event("partition_restored", PARTITIONS)
    send(rig, known, load_schema("tick"), "one", 16 * PARTITIONS)
    rig.producer.flush()
    wait_for(lambda: len(rig.eyes(rig.topics["predictions"])) == 16, "16 predictions")

    replayed = {e["partition"]: e["replayed"] for e in worker.events("partition_restored")}
    assert replayed[0] == 15
    assert len(rig.eyes(rig.topics["dead_letters"])) == 1


FOREIGN_SCHEMAS = {
    "schema_incompatible": {
        "type": "record",
        "name": "Price",
        "fields": [{"name": "price", "type": "double"}],
    },
    "schema_rejected": {
        "type": "record",
        "name": "Chain",
        "fields": [{"name": "next", "type": ["null", "Chain"]}],
    },
}


def test_schemas_that_do_not_fit_or_are_unsafe_are_dead_lettered_with_their_own_reason(rig):
    usp(rig, "topics", "apply")
    ids = {}
    for reason, schema in FOREIGN_SCHEMAS.items():
        subject = f"{rig.application}.{reason}"
        ids[reason] = rig.registry.register(subject, json.dumps(schema), INPUT_COMPATIBILITY)
        assert isinstance(ids[reason], int)
    rig.start("only")
    for number in range(12):
        for schema_id in ids.values():
            frame = b"\x00" + schema_id.to_bytes(4, "big") + bytes(8)
            rig.send_raw(b"x", frame, number % PARTITIONS)
    rig.producer.flush()
    letters = []

    def done() -> bool:
        letters[:] = rig.eyes(rig.topics["dead_letters"])
        return len(letters) == 24

    wait_for(done, "24 dead letters")

    assert reasons(letters) == dict.fromkeys(FOREIGN_SCHEMAS, 12)
