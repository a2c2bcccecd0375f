"""Structured log lines: one JSON object each, to standard error, never a signal value."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Writes events of a worker at or above a level."""

    def __init__(self, worker: str, level: str = "info", stream: TextIO | None = None) -> None:
        self._worker = worker
        self._threshold = LEVELS.index(level)
        self._stream = stream if stream is not None else sys.stderr

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS.index(level) < self._threshold:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
        line = {"time": stamp, "level": level, "event": event, "worker": self._worker, **fields}
        print(json.dumps(line, default=str), file=self._stream, flush=True)

    def debug(self, event: str, **fields: Any) -> None:
        """Of interest to a developer."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """The course of things."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Somebody should look, nothing is lost."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """The worker cannot go on, or not as configured."""
        self._write("error", event, fields)
