"""Schema ids that the decoder does not know: asked in the background, answered as values."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.log import Log
from pipeline.registry import NotFound, Registry, Unavailable
from schemas.codec import TickDecoder

RETRY_SECONDS = 1.0
FORGET_SECONDS = 60.0


class WriterSchemas:
    """Asks the registry about writers' schemas and teaches the decoder.

    An unreachable registry is asked again and again; only its definite "not found" makes an
    id unknown, and not for ever.
    """

    def __init__(
        self,
        registry: Registry | None,
        decoder: TickDecoder,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._decoder = decoder
        self._log = log
        self._monotonic = monotonic
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="writer-schemas")
        self._asked: dict[int, Future[str | NotFound | Unavailable]] = {}
        self._not_before: dict[int, float] = {}
        self._forget_at = monotonic() + FORGET_SECONDS

    def settled(self, schema_id: int, accept_unknown: bool = True) -> bool:
        """Ask if need be; True once the decoder knows what to do with frames of this id.

        With `accept_unknown` False, "not found" is treated like "unreachable": what was once
        decoded must be decoded again.
        """
        if self._registry is None:
            return False
        future = self._asked.get(schema_id)
        if future is None:
            if self._monotonic() >= self._not_before.get(schema_id, 0.0):
                registry = self._registry
                self._asked[schema_id] = self._executor.submit(registry.writer_schema, schema_id)
            return False
        if not future.done():
            return False
        del self._asked[schema_id]
        answer = future.result()
        if isinstance(answer, str):
            fault = self._decoder.add_writer(schema_id, answer)
            if fault is not None:
                self._log.warning(
                    "writer_schema_refused",
                    schema_id=schema_id,
                    reason=str(fault.reason),
                    detail=fault.detail,
                )
            return True
        if isinstance(answer, NotFound) and accept_unknown:
            self._decoder.add_unknown(schema_id)
            self._log.warning("writer_schema_unknown", schema_id=schema_id, detail=answer.detail)
            return True
        self._log.warning("registry_waits", schema_id=schema_id, detail=answer.detail)
        self._not_before[schema_id] = self._monotonic() + RETRY_SECONDS
        return False

    def refresh(self) -> None:
        """From time to time give unknown ids another chance: a replica may have lagged."""
        if self._monotonic() >= self._forget_at:
            self._decoder.forget_unknown()
            self._forget_at = self._monotonic() + FORGET_SECONDS

    def close(self) -> None:
        """End the background thread."""
        self._executor.shutdown(wait=False, cancel_futures=True)
