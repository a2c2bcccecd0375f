"""SIGTERM and SIGINT, noticed whatever the main thread is doing."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def on_stop_signals(act: Callable[[], None]) -> Iterator[None]:
    """Call `act`, in a thread of its own, at the first stop signal inside; for the main thread.

    Python runs a signal handler only when the main thread comes back to Python, which a compiler
    or a client may keep from it for long. The number of the signal, though, is written to a socket
    at once, and a thread waits for it there.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def wait() -> None:
        while number := reading.recv(1):
            if number[0] in STOPPING:
                act()
                return

    def nothing(number: int, frame: FrameType | None) -> None:
        """The thread acts; the signal must only not do what it does by default."""

    before = {number: signal.signal(number, nothing) for number in STOPPING}
    descriptor_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=wait, name="stop-signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        writing.close()
