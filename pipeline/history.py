"""What a new partition's assets have lived through before their first tick: `[history]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import Config
from pipeline.errors import ExitCode, UserError
from pipeline.placement import java_partition
from pipeline.pool import StatePool, TickColumns
from predictor.config import ROUNDS

if TYPE_CHECKING:
    from pipeline.backtest import Series


class PastTicks:
    """Recorded series, by the partition in which a Java producer places their assets.

    They are folded into fresh states before the first tick of a partition that has neither
    offset nor snapshots. The states are in the log with the offset at which the partition starts,
    so that no later worker needs the file.
    """

    def __init__(self, config: Config, pool: StatePool, partitions: int) -> None:
        self._pool = pool
        self._parameters = config.predictor
        self._series: dict[int, list[Series]] = {}
        for series in _recorded(config):
            partition = java_partition(series.asset.encode(), partitions)
            self._series.setdefault(partition, []).append(series)

    def assets(self, partition: int) -> list[str]:
        """Whose past is known in a partition."""
        return [series.asset for series in self._series.get(partition, ())]

    def folding(self, partition: int) -> Iterator[None]:
        """Fold the partition's series, a bounded number of ticks from one `next` to another."""
        everything = self._series.get(partition, [])
        tile = self._parameters.tile
        for first in range(0, len(everything), tile):
            group = everything[first : first + tile]
            slots = self._pool.slots(partition, [series.asset for series in group])
            longest = max(len(series.magnitudes) for series in group)
            for start in range(0, longest, ROUNDS):
                self._fold(group, slots, slice(start, start + ROUNDS))
                yield

    def _fold(self, group: list[Series], slots: np.ndarray, rows: slice) -> None:
        magnitude = np.concatenate([series.magnitudes[rows] for series in group])
        stamps = np.concatenate([series.timestamps_ns[rows] for series in group])
        counts = [len(series.magnitudes[rows]) for series in group]
        missing = np.full(len(magnitude), np.nan)
        ticks = TickColumns(magnitude, stamps, stamps, missing, missing)
        self._pool.step(np.repeat(slots, counts), ticks, self._parameters, journal=False)


def _recorded(config: Config) -> list[Series]:
    """The last ticks of every series of the file, none without one."""
    rules = config.history
    if not rules.file:
        return []
    # Readers of files have no part in a start without one.
    from pipeline.backtest import Series, collect
    from pipeline.sources import TickFile

    try:
        everything = collect(TickFile(Path(rules.file)).batches())
    except UserError as error:
        raise UserError(
            f"history.file: {error}; a history has the columns asset_id, timestamp and magnitude",
            ExitCode.CONFIGURATION,
        ) from None
    last = slice(-rules.file_ticks, None)
    return [
        Series(series.asset, series.magnitudes[last], series.timestamps_ns[last])
        for series in everything
    ]
