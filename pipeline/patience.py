"""How long a call may block: as usual, or its part of the time that is left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

SHORTEST_SECONDS = 0.1
"""A call that gets less would fail before it was tried."""


class Patience:
    """One deadline for a sequence of blocking calls.

    Nothing limits them in normal life. After `stop`, and inside `within`, each call may take at
    most half of the time that is left: whatever fails by running out of its time leaves some for
    what has to be done about it.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._stopping = threading.Event()
        self._until: float | None = None
        self._stop_by: float | None = None

    def stop(self, seconds: float) -> None:
        """Everything has to be over after this time; a second call changes nothing. From any
        thread or signal handler."""
        if self._stop_by is None:
            self._stop_by = self._monotonic() + seconds
            self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit what happens inside to this time, or to less where less is left."""
        before, until = self._until, self._monotonic() + seconds
        self._until = until if before is None else min(before, until)
        try:
            yield
        finally:
            self._until = before

    def left(self) -> float:
        """Seconds until the deadline; infinity without one."""
        limits = [each for each in (self._until, self._stop_by) if each is not None]
        return min(limits) - self._monotonic() if limits else float("inf")

    def part(self, usual_seconds: float) -> float:
        """What the next call may take."""
        return max(min(usual_seconds, self.left() / 2), SHORTEST_SECONDS)

    def pause(self, seconds: float) -> bool:
        """Wait, or until `stop`; whether it was called."""
        return self._stopping.wait(seconds)
