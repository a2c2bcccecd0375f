"""The protocol of the worker: `advance(state, event) -> (state, effects)`, nothing else.

Every decision about partitions and transactions is made here, on values; clients, device,
clock and log belong to `pipeline.worker`, which performs the effects in order and reports
the outcome of each before the next. The same function runs in the tests under schedules of
crashes that no real cluster produces on demand.

The invariant: the device state and the positions of all running partitions are what the
committed offsets imply, plus what the open transaction holds. Aborting is therefore three
effects: abort at the broker, undo on the device, rewind to the committed offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Phase(StrEnum):
    """Life of a partition in this worker, in the words of Kafka Streams."""

    RESTORING = "restoring"  # assigned, paused, its state is being rebuilt
    RUNNING = "running"  # delivering and stepping
    SUSPENDED = "suspended"  # paused until a schema is known
    RETAINED = "retained"  # revoked by an eager rebalance, kept in case it comes back
    CLOSED = "closed"  # not ours


TRANSITIONS: Mapping[tuple[Phase, str], Phase] = {
    (Phase.CLOSED, "Assigned"): Phase.RESTORING,
    (Phase.RETAINED, "Assigned"): Phase.RESTORING,
    (Phase.RETAINED, "NotReassigned"): Phase.CLOSED,
    (Phase.RESTORING, "Restored"): Phase.RUNNING,
    (Phase.RESTORING, "Revoked"): Phase.CLOSED,
    (Phase.RESTORING, "Lost"): Phase.CLOSED,
    (Phase.RUNNING, "Suspended"): Phase.SUSPENDED,
    (Phase.RUNNING, "Revoked"): Phase.CLOSED,
    (Phase.RUNNING, "RevokedEagerly"): Phase.RETAINED,
    (Phase.RUNNING, "Lost"): Phase.CLOSED,
    (Phase.SUSPENDED, "Resumed"): Phase.RUNNING,
    (Phase.SUSPENDED, "Revoked"): Phase.CLOSED,
    (Phase.SUSPENDED, "RevokedEagerly"): Phase.RETAINED,
    (Phase.SUSPENDED, "Lost"): Phase.CLOSED,
    (Phase.RETAINED, "Lost"): Phase.CLOSED,
}
"""Which event moves a partition where; a pair that is not listed cannot happen."""


@dataclass(frozen=True)
class Partition:
    """`committed`: offset of the last commit. `position`: first offset not stepped yet."""

    phase: Phase
    committed: int = 0
    position: int = 0


@dataclass(frozen=True)
class CoreState:
    """`began_ns`: when the oldest uncommitted effect was made; None without one.
    `intent`: offsets of a commit whose outcome is not known yet."""

    partitions: Mapping[int, Partition] = field(default_factory=dict)
    began_ns: int | None = None
    intent: Mapping[int, int] | None = None
    stopping: bool = False

    def running(self) -> tuple[int, ...]:
        """Partitions that deliver."""
        return tuple(p for p, part in self.partitions.items() if part.phase is Phase.RUNNING)

    def holding(self) -> tuple[int, ...]:
        """Partitions whose state is complete and belongs to us."""
        held = (Phase.RUNNING, Phase.SUSPENDED)
        return tuple(p for p, part in self.partitions.items() if part.phase in held)

    def offsets(self) -> dict[int, int]:
        """What a commit of now would commit."""
        return {p: self.partitions[p].position for p in self.holding()}


# -- events ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assigned:
    """The group gave us these partitions, in addition or, if not `incremental`, in all."""

    partitions: tuple[int, ...]
    incremental: bool


@dataclass(frozen=True)
class Revoked:
    """The group takes these partitions; our generation is still valid."""

    partitions: tuple[int, ...]
    incremental: bool


@dataclass(frozen=True)
class Lost:
    """These partitions may already belong to another member."""

    partitions: tuple[int, ...]


@dataclass(frozen=True)
class Restored:
    """The state of a partition equals the fold of its ticks below `committed`."""

    partition: int
    committed: int


@dataclass(frozen=True)
class Stepped:
    """Ticks were folded and their outputs written into the open transaction; `positions` are
    the first offsets after them."""

    positions: Mapping[int, int]
    now_ns: int


@dataclass(frozen=True)
class Suspended:
    """A record of an unknown schema waits at the partition's position."""

    partition: int


@dataclass(frozen=True)
class Resumed:
    """What the partition waited for is known."""

    partition: int


@dataclass(frozen=True)
class Due:
    """The clock: commit what is older than the interval; `forced` commits in any case."""

    now_ns: int
    interval_ns: int
    forced: bool = False


@dataclass(frozen=True)
class Committed:
    """The broker confirmed the commit."""


@dataclass(frozen=True)
class CommitRefused:
    """The transaction cannot commit and is still open at the broker."""


@dataclass(frozen=True)
class ProducerReplaced:
    """A commit got no answer; a new producer settled it, and these are the offsets now."""

    committed: Mapping[int, int]


@dataclass(frozen=True)
class StopRequested:
    """SIGTERM or SIGINT."""


Event = (
    Assigned
    | Revoked
    | Lost
    | Restored
    | Stepped
    | Suspended
    | Resumed
    | Due
    | Committed
    | CommitRefused
    | ProducerReplaced
    | StopRequested
)


# -- effects --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restore:
    """Rebuild these partitions; `retained` maps those whose kept state is good if their
    committed offset is still this one."""

    partitions: tuple[int, ...]
    retained: Mapping[int, int]


@dataclass(frozen=True)
class ResumeAt:
    """Deliver from this offset on."""

    partition: int
    offset: int


@dataclass(frozen=True)
class Pause:
    """Deliver nothing more."""

    partitions: tuple[int, ...]


@dataclass(frozen=True)
class Commit:
    """Write due snapshots, send these offsets, commit, and report the outcome."""

    offsets: Mapping[int, int]


@dataclass(frozen=True)
class KeepState:
    """The device state of now is the committed one."""

    offsets: Mapping[int, int]


@dataclass(frozen=True)
class Abort:
    """Abort the transaction at the broker."""


@dataclass(frozen=True)
class UndoState:
    """The device state becomes that of the last commit."""


@dataclass(frozen=True)
class Rewind:
    """Continue at the committed offset."""

    partition: int
    offset: int
    paused: bool


@dataclass(frozen=True)
class Drain:
    """Snapshot what is uncovered in these partitions, in bounded transactions."""

    partitions: tuple[int, ...]


@dataclass(frozen=True)
class Forget:
    """Drop state and restoration of these partitions."""

    partitions: tuple[int, ...]


@dataclass(frozen=True)
class Close:
    """Leave the group and end."""


Effect = (
    Restore
    | ResumeAt
    | Pause
    | Commit
    | KeepState
    | Abort
    | UndoState
    | Rewind
    | Drain
    | Forget
    | Close
)


# -- the transition function ------------------------------------------------------------------


def _moved(state: CoreState, partition: int, event: str, **changes: int) -> CoreState:
    current = state.partitions.get(partition, Partition(Phase.CLOSED))
    phase = TRANSITIONS[current.phase, event]
    partitions = dict(state.partitions)
    if phase is Phase.CLOSED:
        partitions.pop(partition, None)
    else:
        partitions[partition] = replace(current, phase=phase, **changes)
    return replace(state, partitions=partitions)


def advance(state: CoreState, event: Event) -> tuple[CoreState, list[Effect]]:
    """The state after `event` and what has to be done about it, in order."""
    match event:
        case Assigned():
            return _assigned(state, event)
        case Revoked():
            return _revoked(state, event)
        case Lost():
            return _lost(state, event)
        case Restored(partition, committed):
            if _phase(state, partition) is not Phase.RESTORING:
                return state, []  # revoked while it was being rebuilt
            state = _moved(state, partition, "Restored", committed=committed, position=committed)
            return state, [ResumeAt(partition, committed)]
        case Stepped():
            return _stepped(state, event)
        case Suspended(partition):
            return _moved(state, partition, "Suspended"), [Pause((partition,))]
        case Resumed(partition):
            if _phase(state, partition) is not Phase.SUSPENDED:
                return state, []
            state = _moved(state, partition, "Resumed")
            return state, [ResumeAt(partition, state.partitions[partition].position)]
        case Due():
            return _due(state, event)
        case Committed():
            return _committed(state)
        case CommitRefused():
            return _undone(state, [Abort()])
        case ProducerReplaced(committed):
            return _settled(state, committed)
        case StopRequested():
            if state.stopping:
                return state, []
            state, effects = _commit(replace(state, stopping=True))
            return state, [*effects, Drain(state.holding()), Close()]


def _phase(state: CoreState, partition: int) -> Phase:
    current = state.partitions.get(partition)
    return current.phase if current else Phase.CLOSED


def _assigned(state: CoreState, event: Assigned) -> tuple[CoreState, list[Effect]]:
    effects: list[Effect] = []
    if not event.incremental:
        gone = tuple(
            p
            for p, part in state.partitions.items()
            if part.phase is Phase.RETAINED and p not in event.partitions
        )
        for partition in gone:
            state = _moved(state, partition, "NotReassigned")
        if gone:
            effects.append(Forget(gone))
    retained = {}
    wanted = []
    for partition in event.partitions:
        phase = _phase(state, partition)
        if phase not in (Phase.CLOSED, Phase.RETAINED):
            continue
        if phase is Phase.RETAINED:
            retained[partition] = state.partitions[partition].committed
        state = _moved(state, partition, "Assigned")
        wanted.append(partition)
    if wanted:
        effects.append(Restore(tuple(wanted), retained))
    return state, effects


def _revoked(state: CoreState, event: Revoked) -> tuple[CoreState, list[Effect]]:
    """Finish while the generation is valid, then let go.

    An eager rebalance takes everything and usually gives most of it back: complete states are
    kept until the next assignment says otherwise. Snapshots are written either way, since
    nobody knows yet who comes next.
    """
    mine = tuple(p for p in event.partitions if p in state.partitions)
    state, effects = _commit(state)
    complete = tuple(p for p in mine if p in state.holding())
    if complete:
        effects.append(Drain(complete))
    closed = []
    for partition in mine:
        if not event.incremental and partition in complete:
            state = _moved(state, partition, "RevokedEagerly")
        else:
            state = _moved(state, partition, "Revoked")
            closed.append(partition)
    if closed:
        effects.append(Forget(tuple(closed)))
    return state, effects


def _lost(state: CoreState, event: Lost) -> tuple[CoreState, list[Effect]]:
    mine = tuple(p for p in event.partitions if p in state.partitions)
    effects: list[Effect] = []
    if state.began_ns is not None:
        state, effects = _undone(state, [Abort()])
    for partition in mine:
        state = _moved(state, partition, "Lost")
    effects = [e for e in effects if not (isinstance(e, Rewind) and e.partition in mine)]
    if mine:
        effects.append(Forget(mine))
    return state, effects


def _stepped(state: CoreState, event: Stepped) -> tuple[CoreState, list[Effect]]:
    partitions = dict(state.partitions)
    for partition, position in event.positions.items():
        current = partitions[partition]
        partitions[partition] = replace(current, position=max(position, current.position))
    began = state.began_ns if state.began_ns is not None else event.now_ns
    return replace(state, partitions=partitions, began_ns=began), []


def _due(state: CoreState, event: Due) -> tuple[CoreState, list[Effect]]:
    old = state.began_ns is not None and event.now_ns - state.began_ns >= event.interval_ns
    if old or (event.forced and state.holding()):
        return _commit(state, forced=event.forced)
    return state, []


def _commit(state: CoreState, forced: bool = False) -> tuple[CoreState, list[Effect]]:
    if state.began_ns is None and not forced:
        return state, []
    offsets = state.offsets()
    if not offsets:
        return state, []
    return replace(state, intent=offsets), [Commit(offsets)]


def _committed(state: CoreState) -> tuple[CoreState, list[Effect]]:
    intent = state.intent or {}
    partitions = dict(state.partitions)
    for partition, offset in intent.items():
        if partition in partitions:
            partitions[partition] = replace(partitions[partition], committed=offset)
    state = replace(state, partitions=partitions, intent=None, began_ns=None)
    return state, [KeepState(dict(intent))]


def _undone(state: CoreState, before: list[Effect]) -> tuple[CoreState, list[Effect]]:
    """Everything since the last commit never happened."""
    partitions = dict(state.partitions)
    rewinds: list[Effect] = []
    for partition, current in state.partitions.items():
        if current.phase in (Phase.RUNNING, Phase.SUSPENDED, Phase.RETAINED):
            partitions[partition] = replace(current, position=current.committed)
        if current.phase in (Phase.RUNNING, Phase.SUSPENDED):
            paused = current.phase is Phase.SUSPENDED
            rewinds.append(Rewind(partition, current.committed, paused))
    state = replace(state, partitions=partitions, intent=None, began_ns=None)
    return state, [*before, UndoState(), *rewinds]


def _settled(state: CoreState, committed: Mapping[int, int]) -> tuple[CoreState, list[Effect]]:
    """A new producer ended the transaction one way or the other: the offsets say which."""
    intent = state.intent or {}
    moved = {
        partition: offset
        for partition, offset in intent.items()
        if partition in state.partitions and state.partitions[partition].committed != offset
    }
    # A transaction is atomic: one offset that moved as intended proves the commit. Where none
    # was to move, undoing is harmless: no tick was folded.
    if any(committed.get(partition) == offset for partition, offset in moved.items()):
        return _committed(state)
    return _undone(state, [])
