"""A schema registry at arm's length: every answer is a value, and none takes too long.

The worker asks for two things: what a producer's schema id stands for, and under which id the
bundled schema of an output topic is registered. Registering is for `usp topics apply`. Subjects are
named `<topic>-value`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Compatibility = Literal["BACKWARD_TRANSITIVE", "FULL_TRANSITIVE"]

INPUT_COMPATIBILITY: Compatibility = "BACKWARD_TRANSITIVE"
"""Producers may lead: whoever reads the newest schema reads every older record."""
OUTPUT_COMPATIBILITY: Compatibility = "FULL_TRANSITIVE"
"""Consumers may lag or lead: every version reads every other."""

# Error codes of the protocol that say "not there", as opposed to an HTTP 404 from whatever else
# may answer at a mistaken address.
_SUBJECT_NOT_FOUND = 40401
_SCHEMA_NOT_FOUND = 40403

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class NotFound:
    """The registry's own word that there is no such schema or subject."""

    detail: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The registry will not take the schema: it is malformed or breaks the subject's policy."""

    detail: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No usable answer; asking again later may give one.

    **Fields:**

    - `detail`: what happened, without address or credentials.
    - `status`: the HTTP status, where there was one; 401 and 403 are about credentials.
    """

    detail: str
    status: int | None = None


class Registry:
    """Thin shell over confluent-kafka's `SchemaRegistryClient`. For one thread.

    **Arguments:**

    - `url`: of the registry; several, separated by commas, are tried in turn.
    - `auth`: further properties of the client, for example `basic.auth.user.info`.
    - `timeout_seconds`: after which any question is answered `Unavailable`. The request itself may
      linger in a daemon thread, since neither name resolution nor a server that sends byte by byte
      can be cut short; until it has ended every further question is `Unavailable` as well.
    - `not_found_seconds`: how long a definite "not found" is remembered, so that a flood of records
      under an unknown id is not a flood of requests. Not for ever: a replica of the registry
      may learn of an id a little later than the producer did.
    - `monotonic`: clock of that memory, in seconds.

    **Failure:** ValueError for properties that the client does not know.
    """

    def __init__(
        self,
        url: str,
        auth: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float = 2.0,
        not_found_seconds: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Brings an HTTP client, which workers without a registry can do without.
        from confluent_kafka.schema_registry import SchemaRegistryClient

        # Repeating is the caller's: the worker pauses a partition and asks again.
        properties = {"url": url, "timeout": timeout_seconds, "max.retries": 0, **(auth or {})}
        self._client = SchemaRegistryClient.new_client(properties)
        self._timeout = timeout_seconds
        self._not_found_seconds = not_found_seconds
        self._monotonic = monotonic
        self._not_found: dict[int, tuple[float, NotFound]] = {}
        self._running: threading.Thread | None = None

    def writer_schema(self, schema_id: int) -> str | NotFound | Unavailable:
        """Text of the schema with this id. What was found once is found for ever."""
        known = self._not_found.get(schema_id)
        if known is not None and self._monotonic() < known[0]:
            return known[1]
        answer = self._ask(lambda: self._client.get_schema(schema_id).schema_str)
        if isinstance(answer, NotFound):
            self._remember(schema_id, answer)
        if isinstance(answer, Refused):
            return Unavailable(answer.detail)
        return Unavailable("an answer without a schema") if answer is None else answer

    def schema_id(self, subject: str, schema_text: str) -> int | NotFound | Unavailable:
        """The id under which exactly this schema is registered for a subject."""
        schema = _avro(schema_text)
        answer = self._ask(
            lambda: self._client.lookup_schema(subject, schema, normalize_schemas=True).schema_id
        )
        if isinstance(answer, Refused):
            return Unavailable(answer.detail)
        return Unavailable("an answer without an id") if answer is None else answer

    def register(
        self, subject: str, schema_text: str, compatibility: Compatibility
    ) -> int | Refused | Unavailable:
        """Set the policy of a subject and register a schema under it; repeating changes nothing.

        **Returns:** the id, or `Refused` where the schema breaks the policy against any earlier
        version.
        """
        schema = _avro(schema_text)

        def apply() -> int:
            # The policy first, so that it also judges this version against the earlier ones.
            self._client.set_compatibility(subject, compatibility)
            return self._client.register_schema(subject, schema, normalize_schemas=True)

        answer = self._ask(apply)
        return Unavailable(answer.detail, 404) if isinstance(answer, NotFound) else answer

    def _remember(self, schema_id: int, answer: NotFound) -> None:
        now = self._monotonic()
        live = {key: known for key, known in self._not_found.items() if now < known[0]}
        self._not_found = {**live, schema_id: (now + self._not_found_seconds, answer)}

    def _ask(self, question: Callable[[], _Answer]) -> _Answer | NotFound | Refused | Unavailable:
        deadline = time.monotonic() + self._timeout
        if self._running is not None:
            self._running.join(self._timeout)
            if self._running.is_alive():
                return Unavailable("the previous request has not ended yet")
        outcome: Future[_Answer] = Future()

        def run() -> None:
            try:
                outcome.set_result(question())
            except Exception as error:
                outcome.set_exception(error)

        self._running = threading.Thread(target=run, name="schema-registry", daemon=True)
        self._running.start()
        try:
            return outcome.result(max(deadline - time.monotonic(), 0.0))
        except TimeoutError:
            return Unavailable(f"no answer within {self._timeout:g} s")
        except Exception as error:
            return _verdict(error)


def subject_of(topic: str) -> str:
    """The subject of a topic's values, by the topic-name strategy."""
    return f"{topic}-value"


def _avro(schema_text: str) -> Any:
    from confluent_kafka import schema_registry

    make_schema: Any = schema_registry.Schema
    return make_schema(schema_text, "AVRO")


def _verdict(error: Exception) -> NotFound | Refused | Unavailable:
    """What an error of the client means; only the protocol's own codes are definite."""
    status = getattr(error, "http_status_code", None)
    code = getattr(error, "error_code", None)
    if status is None:
        return Unavailable(f"no connection ({type(error).__name__})")
    if status == 404 and code in (_SUBJECT_NOT_FOUND, _SCHEMA_NOT_FOUND):
        return NotFound(f"not found (code {code})")
    if status in (409, 422):
        return Refused(
            f"HTTP {status}, code {code}: {str(getattr(error, 'error_message', ''))[:500]}"
        )
    return Unavailable(f"HTTP {status}, code {code}", status)
