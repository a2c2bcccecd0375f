"""Topics: their partitions and their configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from .log import PartitionLog
from .protocol import ErrorCode

# Kafka's defaults for the settings that have an effect here, and for those that clients commonly
# set and read back; the latter are stored and returned, nothing more.
DEFAULT_CONFIG: dict[str, str] = {
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "delete.retention.ms": "86400000",
    "file.delete.delay.ms": "60000",
    "flush.messages": "9223372036854775807",
    "flush.ms": "9223372036854775807",
    "index.interval.bytes": "4096",
    "max.compaction.lag.ms": "9223372036854775807",
    "max.message.bytes": "1048588",
    "message.timestamp.after.max.ms": "3600000",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.type": "CreateTime",
    "min.cleanable.dirty.ratio": "0.5",
    "min.compaction.lag.ms": "0",
    "min.insync.replicas": "1",
    "preallocate": "false",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
    "segment.bytes": "1073741824",
    "segment.index.bytes": "10485760",
    "segment.jitter.ms": "0",
    "segment.ms": "604800000",
    "unclean.leader.election.enable": "false",
}

_CHOICES: dict[str, frozenset[str]] = {
    "cleanup.policy": frozenset({"delete", "compact", "compact,delete", "delete,compact"}),
    "compression.type": frozenset({"producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"}),
    "message.timestamp.type": frozenset({"CreateTime", "LogAppendTime"}),
    "preallocate": frozenset({"true", "false"}),
    "unclean.leader.election.enable": frozenset({"true", "false"}),
}
_LEGAL_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")

LARGEST_PARTITION_COUNT = 10_000
"""A slip of the hand in a partition count must not fill the memory."""


def is_valid_setting(name: str, value: str | None) -> bool:
    """Whether `name` is a topic setting and `value` one that it may have (None resets it)."""
    if name not in DEFAULT_CONFIG:
        return False
    if value is None:
        return True
    if name in _CHOICES:
        return value.replace(" ", "") in _CHOICES[name]
    number = r"0(\.\d+)?|1(\.0+)?" if name == "min.cleanable.dirty.ratio" else r"-1|\d{1,19}"
    return re.fullmatch(number, value) is not None


class Topic:
    """A topic: a name, one log per partition, and the settings that differ from the defaults."""

    def __init__(self, name: str, partition_count: int, config: Mapping[str, str]) -> None:
        self.name = name
        self.partitions = [PartitionLog() for _ in range(partition_count)]
        self.config = dict(config)

    def setting(self, name: str) -> str:
        return self.config.get(name, DEFAULT_CONFIG[name])

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.setting("cleanup.policy")

    @property
    def uses_log_append_time(self) -> bool:
        return self.setting("message.timestamp.type") == "LogAppendTime"

    @property
    def retention(self) -> tuple[int, int]:
        """Milliseconds and bytes to keep, -1 for no limit.

        Only limits that were set on the topic hold. Kafka also applies its default of a week, and
        so soon deletes records with old timestamps; here a replay of old data keeps working.
        """
        if "delete" not in self.setting("cleanup.policy"):
            return -1, -1
        config = self.config
        return int(config.get("retention.ms", -1)), int(config.get("retention.bytes", -1))

    def accepts_time(self, timestamp: int, now_ms: int) -> bool:
        """Whether a record of this time (ms) is inside the bounds around the broker's clock."""
        return self.uses_log_append_time or (
            timestamp - now_ms <= int(self.setting("message.timestamp.after.max.ms"))
            and now_ms - timestamp <= int(self.setting("message.timestamp.before.max.ms"))
        )

    def grow(self, partition_count: int) -> None:
        missing = partition_count - len(self.partitions)
        self.partitions.extend(PartitionLog() for _ in range(missing))


class Topics:
    """All topics of the broker."""

    def __init__(self) -> None:
        self._by_name: dict[str, Topic] = {}

    def __iter__(self) -> Iterator[Topic]:
        return iter(tuple(self._by_name.values()))

    def get(self, name: str) -> Topic | None:
        return self._by_name.get(name)

    def log(self, name: str, partition: int) -> PartitionLog | None:
        """The log of a partition, or None if there is no such topic or partition."""
        topic = self._by_name.get(name)
        if topic is None or not 0 <= partition < len(topic.partitions):
            return None
        return topic.partitions[partition]

    def create(
        self,
        name: str,
        partition_count: int,
        config: Mapping[str, str | None] | None = None,
        validate_only: bool = False,
    ) -> ErrorCode:
        config = config or {}
        if not _LEGAL_NAME.fullmatch(name) or name in (".", ".."):
            return ErrorCode.INVALID_TOPIC
        if name in self._by_name:
            return ErrorCode.TOPIC_ALREADY_EXISTS
        if not 1 <= partition_count <= LARGEST_PARTITION_COUNT:
            return ErrorCode.INVALID_PARTITIONS
        if not all(is_valid_setting(*item) for item in config.items()):
            return ErrorCode.INVALID_CONFIG
        if not validate_only:
            settings = {key: value for key, value in config.items() if value is not None}
            self._by_name[name] = Topic(name, partition_count, settings)
        return ErrorCode.NONE

    def delete(self, name: str) -> ErrorCode:
        topic = self._by_name.pop(name, None)
        if topic is None:
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        for log in topic.partitions:
            log.is_deleted = True
            log.notify()
        return ErrorCode.NONE
