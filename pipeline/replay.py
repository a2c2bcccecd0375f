"""The silent replay: ticks between snapshots and committed offset, folded and not published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from consumers.events import Record
from pipeline.config import Config
from pipeline.generations import Timeline
from pipeline.pool import TickColumns
from pipeline.processing import OUTSIDE_OF_THE_LOG, Decoded, Stepper, decode
from pipeline.recovery import DataLossRefused, PartitionRecovery
from schemas.codec import TickDecoder


class Replay:
    """Folds records of partitions that are being rebuilt.

    A record whose schema has to be learnt first, and all after it in its partition, are held until
    `resolve` says that the schema is known; other partitions go on.
    """

    def __init__(
        self,
        config: Config,
        stepper: Stepper,
        decoder: TickDecoder,
        resolve: Callable[[int], bool],
    ) -> None:
        self._config = config
        self._stepper = stepper
        self._decoder = decoder
        self._resolve = resolve
        self._held: dict[int, tuple[int, list[Record]]] = {}

    def holds(self, partition: int) -> bool:
        """Whether records of the partition wait for a schema."""
        return partition in self._held

    def forget(self, partition: int) -> None:
        """The partition is not being rebuilt any more."""
        self._held.pop(partition, None)

    def released(self) -> list[Record]:
        """Records whose schema has become known; give them to `fold` before later ones."""
        out: list[Record] = []
        for partition, (schema_id, records) in list(self._held.items()):
            if self._resolve(schema_id):
                del self._held[partition]
                out += records
        return out

    def fold(self, records: Sequence[Record], parts: Mapping[int, PartitionRecovery]) -> None:
        """Step what lies between an asset's snapshot and the committed offset, in order.

        **Failure:** `DataLossRefused` where a record cannot be decoded that once was.
        """
        for record in records:
            if record.partition in self._held:
                self._held[record.partition][1].append(record)
        mine = [record for record in records if self._is_replayed(record, parts)]
        if not mine:
            return
        decoded = decode(self._decoder, self._config.ingestion, mine, time.time_ns())
        self._settle_unreadable(mine, decoded, parts)
        # What was known when these ticks were first read has to be known again.
        for partition, (offset, schema_id) in decoded.waiting.items():
            rest = [r for r in records if r.partition == partition and r.offset >= offset]
            self._held[partition] = (schema_id, rest)
        chosen = _after_their_snapshots(mine, decoded, parts)
        if not len(chosen.positions):
            return
        info, _ = self._stepper.step(
            mine, chosen, lambda partition: self._timeline(parts[partition]), journal=False
        )
        now = time.time_ns()
        for record, asset in zip(info.records, info.asset_id, strict=True):
            part = parts[record.partition]
            part.book.touch([asset], [record.offset], now)
            part.replayed += 1

    def _is_replayed(self, record: Record, parts: Mapping[int, PartitionRecovery]) -> bool:
        part = parts.get(record.partition)
        return (
            part is not None
            and record.partition not in self._held
            and record.offset < part.committed
            and record.offset not in part.book.skipped
        )

    def _settle_unreadable(
        self,
        records: Sequence[Record],
        decoded: Decoded,
        parts: Mapping[int, PartitionRecovery],
    ) -> None:
        for rejection in decoded.rejected:
            if rejection.reason in OUTSIDE_OF_THE_LOG:
                record = records[rejection.index]
                part = parts[record.partition]
                if part.is_new:
                    # Nobody has answered it: whether it can be read later must not matter then.
                    part.book.skip(record.offset)
                    continue
                raise DataLossRefused(
                    f"{self._config.topics.ticks}/{record.partition} offset {record.offset} was "
                    f"decoded when it was first read, and cannot be now ({rejection.detail}); "
                    "set schemas.registry_url to the registry that knows the schema"
                )

    def _timeline(self, part: PartitionRecovery) -> Timeline:
        return Timeline(self._config.predictor, part.book.generations)


def _after_their_snapshots(
    records: Sequence[Record], decoded: Decoded, parts: Mapping[int, PartitionRecovery]
) -> Decoded:
    wanted = []
    for place, (index, asset) in enumerate(zip(decoded.positions, decoded.asset_id, strict=True)):
        record = records[int(index)]
        if record.offset >= parts[record.partition].begin_after.get(asset, 0):
            wanted.append(place)
    chosen = np.array(wanted, np.int64)
    return decoded._replace(
        positions=decoded.positions[chosen],
        asset_id=[decoded.asset_id[i] for i in wanted],
        ticks=TickColumns(*(column[chosen] for column in decoded.ticks)),
        request_id=[decoded.request_id[i] for i in wanted],
        state_tag=[decoded.state_tag[i] for i in wanted],
    )
