"""The broker's sockets: connections, framing, dispatch, timers, and a thread to run it in."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

from . import admin_requests, data_requests, group_requests, transaction_requests
from .node import Clock, Node
from .protocol import APIS, ErrorCode, MalformedRequest, Request, Response

_LOG = logging.getLogger(__name__)

_HANDLERS: dict[str, Callable] = {
    name: function
    for module in (admin_requests, data_requests, group_requests, transaction_requests)
    for name, function in vars(module).items()
    if name in {api.name for api in APIS.values()}
}
_API_VERSIONS = 18

LARGEST_REQUEST = 100 << 20
"""Kafka's `socket.request.max.bytes`."""

_TIMER_SECONDS = 0.05  # how late a time-out may be noticed
_CLEANING_SECONDS = 1.0
_SEND_BUFFER_BYTES = 4 << 20  # beyond it a slow reader's next request waits


class Broker:
    """A single-node Kafka broker for demos and tests: one process, in memory, nothing replicated.

    ```python
    broker = Broker()
    address = await broker.start()
    broker.create_topic("ticks", 4)
    ...
    await broker.stop()
    ```

    **Arguments:**

    - `host`, `port`: where to listen; port 0 takes a free one.
    - `auto_create_partitions`: partitions of topics made by asking for them; 0, the default,
      leaves unknown topics unknown.
    - `clock`: the source of time for groups, transactions and markers.
    - `largest_request`: bytes; a longer request closes its connection.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        auto_create_partitions: int = 0,
        clock: Clock | None = None,
        largest_request: int = LARGEST_REQUEST,
    ) -> None:
        self.node = Node(clock or Clock(), auto_create_partitions)
        self._host = host
        self._port = port
        self._largest_request = largest_request
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """`host:port` for `bootstrap.servers`."""
        return f"{self.node.host}:{self.node.port}"

    def create_topic(
        self, name: str, partition_count: int, config: Mapping[str, str | None] | None = None
    ) -> None:
        """Create a topic before or while the broker runs.

        **Failure:** `ValueError` if the name, the count or a setting is not acceptable, or the
        topic exists.
        """
        error = self.node.topics.create(name, partition_count, config)
        if error:
            raise ValueError(f"cannot create topic {name!r}: {error.name}")

    async def start(self) -> str:
        """Listen; returns the address."""
        self._server = await asyncio.start_server(
            self._serve, self._host, self._port, limit=1 << 20
        )
        self.node.host = self._host
        self.node.port = self._server.sockets[0].getsockname()[1]
        for timer in (self._watch_time_outs, self._clean):
            self._keep(asyncio.create_task(timer()))
        return self.address

    async def stop(self) -> None:
        """Close every connection; what was stored is gone."""
        if self._server is not None:
            self._server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch_time_outs(self) -> None:
        while True:
            await asyncio.sleep(_TIMER_SECONDS)
            try:
                self.node.expire()
            except Exception:
                _LOG.exception("a time-out could not be handled")

    async def _clean(self) -> None:
        while True:
            await asyncio.sleep(_CLEANING_SECONDS)
            try:
                await self.node.clean()
            except Exception:
                _LOG.exception("a log could not be cleaned")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests are answered one at a time, in order, as Kafka does."""
        task = asyncio.current_task()
        assert task is not None
        self._keep(task)
        writer.transport.set_write_buffer_limits(high=_SEND_BUFFER_BYTES)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        try:
            while True:
                frame = await self._read_frame(reader)
                parts = await self._answer(frame, peer)
                if parts:
                    writer.writelines(parts)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except MalformedRequest as error:
            _LOG.warning("closing the connection of %s: %s", peer, error)
        except Exception:
            _LOG.exception("closing the connection of %s: its request could not be handled", peer)
        finally:
            writer.close()

    async def _read_frame(self, reader: asyncio.StreamReader) -> bytes:
        size = int.from_bytes(await reader.readexactly(4), "big", signed=True)
        if not 8 <= size <= self._largest_request:
            raise MalformedRequest(f"request of {size} bytes")
        return await reader.readexactly(size)

    async def _answer(self, frame: bytes, peer: str) -> list[bytes]:
        """The response as chunks to send, empty if the request wants none.

        **Failure:** `MalformedRequest` if it cannot be read or is of an unsupported kind; only a
        question for the supported versions is answered in that case.
        """
        head = Request(frame)
        key, version, correlation = head.int16(), head.int16(), head.int32()
        api = APIS.get(key)
        if api is None or not api.lowest <= version <= api.highest:
            if key != _API_VERSIONS:
                raise MalformedRequest(f"unsupported request {key} version {version}")
            response = admin_requests.describe_versions(0, ErrorCode.UNSUPPORTED_VERSION)
            return _framed(response, correlation, has_tags=False)
        client_id = head.nullable_string() or ""
        is_flexible = version >= api.flexible_from
        request = Request(frame, head.position, version, is_flexible, client_id, peer)
        request.tags()
        answer = _HANDLERS[api.name](self.node, request)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None:
            return []
        # The one response whose header never has tags, since the client cannot know yet.
        return _framed(answer, correlation, has_tags=is_flexible and key != _API_VERSIONS)


def _framed(response: Response, correlation: int, has_tags: bool) -> list[bytes]:
    head = correlation.to_bytes(4, "big", signed=True) + (b"\0" if has_tags else b"")
    size = len(head) + sum(map(len, response.parts))
    return [size.to_bytes(4, "big") + head, *response.parts]


async def _end_other_tasks() -> None:
    """End connections that were accepted while the broker stopped and have not begun yet."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def running_broker(
    topics: Mapping[str, int] | None = None,
    auto_create_partitions: int = 0,
    largest_request: int = LARGEST_REQUEST,
) -> Iterator[str]:
    """Run a broker in a background thread; yields its bootstrap address.

    **Arguments:**

    - `topics`: names and partition counts to create at once; others through an admin client.
    - the others as in `Broker`.
    """
    broker = Broker(auto_create_partitions=auto_create_partitions, largest_request=largest_request)
    for name, partition_count in (topics or {}).items():
        broker.create_topic(name, partition_count)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded-broker", daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(broker.start(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(broker.stop(), loop).result()
        asyncio.run_coroutine_threadsafe(_end_other_tasks(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
