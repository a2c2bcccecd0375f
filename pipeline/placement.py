"""Where ticks lie: whether the producer's partitioner is Java's, and assets in two places."""

from __future__ import annotations

from collections.abc import Iterable

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """The hash of Kafka's default partitioner, as a signed 32-bit integer.

    **Source:** Appleby's MurmurHash2 with the seed of the Java client.
    """
    length = len(key)
    h = (_SEED ^ length) & _MASK
    whole = length - length % 4
    for start in range(0, whole, 4):
        k = int.from_bytes(key[start : start + 4], "little")
        k = (k * _MULTIPLIER) & _MASK
        k ^= k >> 24
        k = (k * _MULTIPLIER) & _MASK
        h = ((h * _MULTIPLIER) & _MASK) ^ k
    if whole < length:
        h ^= int.from_bytes(key[whole:], "little")
        h = (h * _MULTIPLIER) & _MASK
    h ^= h >> 13
    h = (h * _MULTIPLIER) & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h & 0x80000000 else h


def java_partition(key: bytes, partitions: int) -> int:
    """Partition that a Java producer chooses for the key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


class Placement:
    """Counts, at the first tick of an asset in a partition, what should not be.

    State belongs to (partition, asset): an asset seen in two partitions has two independent
    states, which is seldom meant.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._seen: dict[str, set[int]] = {}
        self.misplaced = 0
        self.split = 0

    def first_seen(self, partition: int, assets: Iterable[str]) -> None:
        """Assets that are new in this partition."""
        for asset in assets:
            places = self._seen.setdefault(asset, set())
            if partition in places:
                continue
            places.add(partition)
            self.split += len(places) == 2
            self.misplaced += java_partition(asset.encode(), self._partitions) != partition

    def forget(self, partition: int, assets: Iterable[str]) -> None:
        """The partition is no longer ours."""
        for asset in assets:
            places = self._seen.get(asset)
            if places is not None:
                places.discard(partition)
                if not places:
                    del self._seen[asset]
