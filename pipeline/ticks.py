"""Ticks on their way into the input topic or a backtest: columns, in the order of arrival."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TICKS_PER_BATCH = 8192


@dataclass(frozen=True, slots=True)
class TickBatch:
    """Consecutive ticks.

    - `asset_ids`: one per tick.
    - `magnitudes`: float64 `[n]`, in the unit of each series.
    - `timestamps_ns`: int64 `[n]`, event time since the Unix epoch.
    """

    asset_ids: Sequence[str]
    magnitudes: np.ndarray[Any, np.dtype[np.float64]]
    timestamps_ns: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.asset_ids)

    def part(self, start: int, stop: int) -> TickBatch:
        """The ticks `start` to `stop - 1`."""
        window = slice(start, stop)
        return TickBatch(
            self.asset_ids[window], self.magnitudes[window], self.timestamps_ns[window]
        )


def limited(batches: Iterator[TickBatch], limit: int) -> Iterator[TickBatch]:
    """The first `limit` ticks; 0 is all of them."""
    left = limit
    for batch in batches:
        if limit and left <= len(batch):
            yield batch.part(0, left)
            return
        left -= len(batch)
        yield batch
