"""What a micro-batch means for snapshots and placement: which assets it touched, which are due."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import Config
from pipeline.outputs import StepInfo
from pipeline.placement import Placement
from pipeline.pool import ResultColumns
from pipeline.transaction import Transactor


class Coverage:
    """Enters stepped ticks into the ledgers, and assets seen for the first time into the count of
    placements."""

    def __init__(self, config: Config, transactor: Transactor, placement: Placement) -> None:
        # Decisions on the host's clock cannot be replayed: every state is written with its tick.
        is_wall = config.ingestion.clock == "wall"
        self._every = 1 if is_wall else config.snapshot.every_ticks
        self._transactor = transactor
        self._placement = placement

    def note(self, info: StepInfo, results: ResultColumns, now_ns: int) -> None:
        """The ticks were folded into their states."""
        due = results.answered & (results.answered_ticks % self._every == 0)
        touched: dict[int, tuple[list[str], list[int]]] = {}
        ledgers = self._transactor.ledgers
        for record, asset, is_due in zip(info.records, info.asset_id, due.tolist(), strict=True):
            names, offsets = touched.setdefault(record.partition, ([], []))
            names.append(asset)
            offsets.append(record.offset)
            if is_due:
                ledgers[record.partition].mark_due([asset])
        for partition, (names, offsets) in touched.items():
            ledgers[partition].touch(names, offsets, now_ns)
        is_first = (results.answered_ticks == 1) & results.answered
        self._note_places(info, is_first.tolist())

    def _note_places(self, info: StepInfo, is_first: Sequence[bool]) -> None:
        if not any(is_first) and not self._placement.unchecked:
            return
        for record, asset, first in zip(info.records, info.asset_id, is_first, strict=True):
            if first or (record.partition, asset) in self._placement.unchecked:
                self._placement.ticked(record.partition, asset, has_key=record.key is not None)
