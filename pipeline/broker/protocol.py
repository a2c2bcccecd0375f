"""The wire: error codes, the table of supported requests, and the primitives that read and write.

Kafka's encoding has two dialects. Older versions of a request prefix strings and arrays with
fixed-width lengths; *flexible* versions use unsigned varints of length plus one and end every
structure with a list of tagged fields. `Request` and `Response` know which one they speak, so a
handler is written once for both.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, TypeVar

T = TypeVar("T")

UNKNOWN_OPERATIONS = -(2**31)
"""Stands for the list of authorised operations where that is not known; nothing is here."""

_INT8 = struct.Struct(">b")
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")


class ErrorCode(IntEnum):
    """Kafka's error codes, as far as this broker answers them."""

    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    MESSAGE_TOO_LARGE = 10
    OFFSET_METADATA_TOO_LARGE = 12
    INVALID_TOPIC = 17
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_CONFIG = 40
    INVALID_REQUEST = 42
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    OPERATION_NOT_ATTEMPTED = 55
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    UNSUPPORTED_COMPRESSION_TYPE = 76
    MEMBER_ID_REQUIRED = 79
    FENCED_INSTANCE_ID = 82
    GROUP_SUBSCRIBED_TO_TOPIC = 86
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    PRODUCER_FENCED = 90


class Api(NamedTuple):
    """One kind of request: its key, the versions answered, and the first flexible one."""

    key: int
    name: str
    lowest: int
    highest: int
    flexible_from: int


APIS: dict[int, Api] = {
    api.key: api
    for api in (
        Api(0, "produce", 3, 8, 9),
        Api(1, "fetch", 4, 11, 12),
        Api(2, "list_offsets", 1, 7, 6),
        # Not version 9: librdkafka sizes its parse buffer by the length of the response, and the
        # compact encoding of many topics with short names and one partition is too short for it.
        Api(3, "metadata", 0, 8, 9),
        Api(8, "offset_commit", 2, 8, 8),
        Api(9, "offset_fetch", 1, 7, 6),
        Api(10, "find_coordinator", 0, 3, 3),
        Api(11, "join_group", 0, 6, 6),
        Api(12, "heartbeat", 0, 4, 4),
        Api(13, "leave_group", 0, 4, 4),
        Api(14, "sync_group", 0, 4, 4),
        Api(15, "describe_groups", 0, 5, 5),
        Api(16, "list_groups", 0, 4, 3),
        Api(18, "api_versions", 0, 3, 3),
        Api(19, "create_topics", 0, 4, 5),
        Api(20, "delete_topics", 0, 4, 4),
        Api(21, "delete_records", 0, 2, 2),
        Api(22, "init_producer_id", 0, 4, 2),
        Api(24, "add_partitions_to_txn", 0, 3, 3),
        Api(25, "add_offsets_to_txn", 0, 3, 3),
        Api(26, "end_txn", 0, 3, 3),
        Api(28, "txn_offset_commit", 0, 3, 3),
        Api(32, "describe_configs", 0, 2, 4),
        Api(33, "alter_configs", 0, 2, 2),
        Api(37, "create_partitions", 0, 3, 2),
        Api(42, "delete_groups", 0, 2, 2),
        Api(44, "incremental_alter_configs", 0, 1, 1),
        Api(47, "offset_delete", 0, 0, 1),
    )
}
"""Group protocol KIP-848 (`ConsumerGroupHeartbeat`) is not here, so clients see it is missing."""


class MalformedRequest(Exception):
    """The bytes are not a request of the version they claim; the connection is closed."""


class Request:
    """Reads one request's body from its bytes.

    **Arguments:**

    - `body`: the whole frame, without its length prefix.
    - `position`: where the body starts, in bytes.
    - `version`, `flexible`: which encoding the body is in.
    - `client_id`, `client_host`: who asks; they appear in group descriptions and member ids.

    **Failure:** every read past the end, and every impossible length, raises `MalformedRequest`.
    """

    __slots__ = ("_body", "client_host", "client_id", "flexible", "position", "version")

    def __init__(
        self,
        body: bytes,
        position: int = 0,
        version: int = 0,
        flexible: bool = False,
        client_id: str = "",
        client_host: str = "",
    ) -> None:
        self._body = memoryview(body)
        self.position = position
        self.version = version
        self.flexible = flexible
        self.client_id = client_id
        self.client_host = client_host

    def response(self) -> Response:
        """An empty response in the same dialect."""
        return Response(self.flexible)

    def _number(self, layout: struct.Struct) -> int:
        try:
            value: int = layout.unpack_from(self._body, self.position)[0]
        except struct.error as error:
            raise MalformedRequest("request ends early") from error
        self.position += layout.size
        return value

    def int8(self) -> int:
        return self._number(_INT8)

    def int16(self) -> int:
        return self._number(_INT16)

    def int32(self) -> int:
        return self._number(_INT32)

    def int64(self) -> int:
        return self._number(_INT64)

    def boolean(self) -> bool:
        return self._number(_INT8) != 0

    def unsigned_varint(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.int8() & 0xFF
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise MalformedRequest("varint longer than five bytes")

    def _take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self._body):
            raise MalformedRequest("length points past the end of the request")
        taken = self._body[self.position : end]
        self.position = end
        return taken

    def nullable_string(self) -> str | None:
        size = self.unsigned_varint() - 1 if self.flexible else self.int16()
        if size < 0:
            return None
        try:
            return str(self._take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedRequest("string is not UTF-8") from error

    def string(self) -> str:
        value = self.nullable_string()
        if value is None:
            raise MalformedRequest("null where a string is required")
        return value

    def nullable_data(self) -> memoryview | None:
        """Opaque bytes, not copied: a view into the request."""
        size = self.unsigned_varint() - 1 if self.flexible else self.int32()
        return None if size < 0 else self._take(size)

    def data(self) -> memoryview:
        value = self.nullable_data()
        if value is None:
            raise MalformedRequest("null where bytes are required")
        return value

    def nullable_array(self, item: Callable[[], T]) -> list[T] | None:
        size = self.unsigned_varint() - 1 if self.flexible else self.int32()
        if size < 0:
            return None
        # Every item takes at least one byte, so a larger count is a lie that would cost memory.
        if size > len(self._body) - self.position:
            raise MalformedRequest("array longer than the request")
        return [item() for _ in range(size)]

    def array(self, item: Callable[[], T]) -> list[T]:
        return self.nullable_array(item) or []

    def tags(self) -> None:
        """Skip the tagged fields that end a structure in flexible versions."""
        if self.flexible:
            for _ in range(self.unsigned_varint()):
                self.unsigned_varint()
                self._take(self.unsigned_varint())

    def structure(self, *fields: Callable[[], object]) -> tuple:
        """Read the fields in order, then the tagged fields behind them."""
        values = tuple(field() for field in fields)
        self.tags()
        return values


class Response:
    """Collects one response's body; every method returns the response, so calls can be chained."""

    __slots__ = ("flexible", "parts")

    def __init__(self, flexible: bool = False) -> None:
        self.flexible = flexible
        self.parts: list[bytes] = []

    def int8(self, value: int) -> Response:
        self.parts.append(_INT8.pack(value))
        return self

    def int16(self, value: int) -> Response:
        self.parts.append(_INT16.pack(value))
        return self

    def int32(self, value: int) -> Response:
        self.parts.append(_INT32.pack(value))
        return self

    def int64(self, value: int) -> Response:
        self.parts.append(_INT64.pack(value))
        return self

    def boolean(self, value: bool) -> Response:
        return self.int8(int(value))

    def unsigned_varint(self, value: int) -> Response:
        encoded = bytearray()
        while value > 0x7F:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        encoded.append(value)
        self.parts.append(bytes(encoded))
        return self

    def _size16(self, size: int) -> Response:
        return self.unsigned_varint(size + 1) if self.flexible else self.int16(size)

    def _size32(self, size: int) -> Response:
        return self.unsigned_varint(size + 1) if self.flexible else self.int32(size)

    def string(self, value: str | None) -> Response:
        if value is None:
            return self._size16(-1)
        encoded = value.encode()
        self._size16(len(encoded)).parts.append(encoded)
        return self

    def data(self, chunks: Sequence[bytes]) -> Response:
        """The chunks as one byte string; they are not joined until the response is sent."""
        self._size32(sum(map(len, chunks))).parts.extend(chunks)
        return self

    def array(self, items: Iterable[T], item: Callable[[T], object]) -> Response:
        items = list(items)
        self._size32(len(items))
        for one in items:
            item(one)
        return self

    def tags(self) -> Response:
        """End a structure: no tagged fields, in flexible versions."""
        if self.flexible:
            self.parts.append(b"\0")
        return self
