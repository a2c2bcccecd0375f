"""The registry's shell against a real registry, and against servers that misbehave."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.registry import (
    INPUT_COMPATIBILITY,
    OUTPUT_COMPATIBILITY,
    NotFound,
    Refused,
    Registry,
    Unavailable,
    subject_of,
)
from schemas.codec import (
    DeadLetterReason,
    Framing,
    PredictionEncoder,
    RecordEncoder,
    TickDecoder,
    encode_tick,
    load_schema,
    schema_text,
)

TICK = {"asset_id": "BTC-USD", "magnitude": 1.5, "timestamp_ns": 1_700_000_000_000_000_000}


@pytest.fixture
def registry(registry_url: str) -> Registry:
    return Registry(registry_url, timeout_seconds=10.0)


@pytest.fixture
def subject(unique_name) -> str:
    return subject_of(unique_name("ticks"))


def with_field(**field: object) -> str:
    schema = load_schema("tick")
    schema["fields"].append(field)
    return json.dumps(schema)


def test_what_was_registered_is_found_by_id_and_by_text(registry, registry_url, subject):
    registered = registry.register(subject, schema_text("tick"), INPUT_COMPATIBILITY)
    assert isinstance(registered, int)

    another = Registry(registry_url, timeout_seconds=10.0)
    found = another.writer_schema(registered)

    assert json.loads(str(found)) == load_schema("tick")
    assert another.schema_id(subject, schema_text("tick")) == registered


def test_registering_again_gives_the_same_id(registry, registry_url, subject):
    first = registry.register(subject, schema_text("tick"), INPUT_COMPATIBILITY)
    second = Registry(registry_url, timeout_seconds=10.0).register(
        subject, schema_text("tick"), INPUT_COMPATIBILITY
    )

    assert first == second


def test_unknown_ids_and_subjects_are_definitely_not_found(registry, subject):
    assert isinstance(registry.writer_schema(2**31 - 1), NotFound)
    assert isinstance(registry.schema_id(subject, schema_text("tick")), NotFound)


def test_a_schema_that_was_never_registered_for_the_subject_is_not_found(registry, subject):
    registry.register(subject, schema_text("tick"), INPUT_COMPATIBILITY)

    assert isinstance(registry.schema_id(subject, schema_text("event")), NotFound)


def test_inputs_may_gain_a_field_with_a_default_and_not_one_without(registry, subject):
    registry.register(subject, schema_text("tick"), INPUT_COMPATIBILITY)

    added = with_field(name="venue", type=["null", "string"], default=None)
    required = with_field(name="venue", type="string")

    assert isinstance(registry.register(subject, added, INPUT_COMPATIBILITY), int)
    assert isinstance(registry.register(subject, required, INPUT_COMPATIBILITY), Refused)


def test_outputs_may_not_lose_a_field_without_default(registry, subject):
    registry.register(subject, schema_text("prediction"), OUTPUT_COMPATIBILITY)
    schema = load_schema("prediction")
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "scale"]

    answer = registry.register(subject, json.dumps(schema), OUTPUT_COMPATIBILITY)

    assert isinstance(answer, Refused)


def test_nonsense_is_refused(registry, subject):
    assert isinstance(registry.register(subject, "{nonsense", INPUT_COMPATIBILITY), Refused)


def test_ticks_of_a_newer_producer_are_read_once_its_schema_was_asked_for(registry, subject):
    registry.register(subject, schema_text("tick"), INPUT_COMPATIBILITY)
    newer = with_field(name="venue", type=["null", "string"], default=None)
    schema_id = registry.register(subject, newer, INPUT_COMPATIBILITY)
    assert isinstance(schema_id, int)
    value = encode_tick(TICK, Framing.confluent(schema_id)) + b"\x00"
    decoder = TickDecoder()

    first = decoder.decode([value], [None])
    text = registry.writer_schema(first.unresolved[0].schema_id)
    assert isinstance(text, str)
    assert decoder.add_writer(schema_id, text) is None
    second = decoder.decode([value], [None])

    assert [unresolved.schema_id for unresolved in first.unresolved] == [schema_id]
    assert second.asset_id == ["BTC-USD"]


def test_predictions_carry_the_registered_id(registry, subject):
    schema_id = registry.register(subject, schema_text("prediction"), OUTPUT_COMPATIBILITY)
    assert isinstance(schema_id, int)

    encoder: RecordEncoder = PredictionEncoder(Framing.confluent(schema_id))

    assert encoder.header == b"\x00" + schema_id.to_bytes(4, "big")


def test_nobody_listening_is_unavailable():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        registry = Registry(f"http://127.0.0.1:{unused.getsockname()[1]}")

        assert isinstance(registry.writer_schema(1), Unavailable)


class _Handler(BaseHTTPRequestHandler):
    """Answers every GET with the server's `status` and `body`, one byte per `pause` seconds."""

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        try:
            for position in range(len(self.server.body)):
                self.wfile.write(self.server.body[position : position + 1])
                self.wfile.flush()
                time.sleep(self.server.pause)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    status = 200
    body = b"{}"
    pause = 0.0
    requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


NOT_FOUND = b'{"error_code": 40403, "message": "Schema not found"}'


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<html>no such page</html>"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (401, b'{"error_code": 401, "message": "Unauthorized"}'),
        (500, b'{"error_code": 50001, "message": "store"}'),
        (503, b""),
        (200, b"not JSON"),
        (200, b"{}"),
        (200, b"[1]"),
    ],
)
def test_everything_but_the_registrys_own_not_found_is_unavailable(server, status, body):
    server.status, server.body = status, body

    assert isinstance(Registry(server.url).writer_schema(7), Unavailable)


def test_refused_credentials_are_told_apart(server):
    server.status, server.body = 401, b"{}"

    answer = Registry(server.url, {"basic.auth.user.info": "user:secret"}).writer_schema(7)

    assert isinstance(answer, Unavailable)
    assert answer.status == 401
    assert "secret" not in answer.detail


def test_a_server_that_trickles_its_answer_does_not_hold_the_caller(server):
    server.body, server.pause = b'{"schema": "' + b"x" * 100, 0.05
    registry = Registry(server.url, timeout_seconds=0.3)

    started = time.monotonic()
    answers = [registry.writer_schema(1), registry.writer_schema(2)]
    elapsed = time.monotonic() - started

    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert elapsed < 2.0


def test_not_found_is_remembered_for_a_while_and_then_asked_again(server):
    server.status, server.body = 404, NOT_FOUND
    now = [0.0]
    registry = Registry(server.url, not_found_seconds=60.0, monotonic=lambda: now[0])

    answers = [registry.writer_schema(7) for _ in range(3)]
    assert server.requests == 1
    now[0] = 61.0
    server.status, server.body = 200, json.dumps({"schema": schema_text("tick")}).encode()

    assert answers == [NotFound("not found (code 40403)")] * 3
    assert registry.writer_schema(7) == schema_text("tick")
    assert server.requests == 2


def test_a_found_schema_is_asked_for_once(server):
    server.body = json.dumps({"schema": schema_text("tick")}).encode()
    registry = Registry(server.url)

    assert registry.writer_schema(7) == registry.writer_schema(7) == schema_text("tick")
    assert server.requests == 1


def test_a_failure_is_not_remembered(server):
    server.status, server.body = 500, b"{}"
    registry = Registry(server.url)
    assert isinstance(registry.writer_schema(7), Unavailable)

    server.status, server.body = 200, json.dumps({"schema": schema_text("tick")}).encode()

    assert registry.writer_schema(7) == schema_text("tick")


def test_an_id_that_is_not_found_dead_letters_and_may_be_forgotten():
    decoder = TickDecoder()
    value = encode_tick(TICK, Framing.confluent(9))
    decoder.add_unknown(9)

    rejected = decoder.decode([value], [None]).rejected
    decoder.forget_unknown()
    again = decoder.decode([value], [None])

    assert [rejection.reason for rejection in rejected] == [DeadLetterReason.UNKNOWN_SCHEMA_ID]
    assert [unresolved.schema_id for unresolved in again.unresolved] == [9]
