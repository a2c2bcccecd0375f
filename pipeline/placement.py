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
    states, which is seldom meant. Where Java would put a key is asked of ticks that have one; a
    tick without a key was placed by nobody's rule.

    `unchecked` are assets whose state came from the log, and whose key has not been seen yet.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._seen: dict[str, set[int]] = {}
        self.unchecked: set[tuple[int, str]] = set()
        self.misplaced = 0
        self.split = 0

    def restored(self, partition: int, assets: Iterable[str]) -> None:
        """Assets whose states were rebuilt in this partition."""
        for asset in assets:
            if self._is_new(partition, asset):
                self.unchecked.add((partition, asset))

    def ticked(self, partition: int, asset: str, has_key: bool) -> None:
        """The first tick of an asset in this partition, for all that this worker has seen."""
        is_new = self._is_new(partition, asset)
        if not is_new and (partition, asset) not in self.unchecked:
            return
        self.unchecked.discard((partition, asset))
        if has_key:
            self.misplaced += java_partition(asset.encode(), self._partitions) != partition

    def _is_new(self, partition: int, asset: str) -> bool:
        places = self._seen.setdefault(asset, set())
        if partition in places:
            return False
        places.add(partition)
        self.split += len(places) == 2
        return True

    def forget(self, partition: int, assets: Iterable[str]) -> None:
        """The partition is no longer ours."""
        for asset in assets:
            self.unchecked.discard((partition, asset))
            places = self._seen.get(asset)
            if places is not None:
                places.discard(partition)
                if not places:
                    del self._seen[asset]
