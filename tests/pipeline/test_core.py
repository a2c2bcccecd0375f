"""The protocol core under schedules of crashes, refusals and rebalances, without any client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import core

PARTITIONS = (0, 1, 2)
INTERVAL = 10


@dataclass
class Cluster:
    """The truth outside of the worker: what is committed and what readers have seen."""

    committed: dict[int, int] = field(default_factory=lambda: dict.fromkeys(PARTITIONS, 0))
    published: dict[int, list[int]] = field(
        default_factory=lambda: {partition: [] for partition in PARTITIONS}
    )

    def commit(self, offsets: Mapping[int, int], outputs: Mapping[int, list[int]]) -> None:
        for partition, offset in offsets.items():
            self.committed[partition] = offset
            self.published[partition] += outputs.get(partition, [])

    def other_member_works(self, partition: int, ticks: int) -> None:
        first = self.committed[partition]
        self.commit({partition: first + ticks}, {partition: list(range(first, first + ticks))})


class Shell:
    """Performs effects on the model; `outcomes` says how the next commits end."""

    def __init__(self, cluster: Cluster, outcomes: list[str]) -> None:
        self.cluster = cluster
        self.outcomes = outcomes
        self.state = core.CoreState()
        self.device: dict[int, list[int]] = {}
        self.saved: dict[int, list[int]] = {}
        self.outputs: dict[int, list[int]] = {}
        self.restoring: dict[int, int | None] = {}
        self.delivering: dict[int, int] = {}
        self.closed = False
        self.now = 0

    def dispatch(self, event: core.Event) -> None:
        self.state, effects = core.advance(self.state, event)
        for effect in effects:
            self.perform(effect)

    def perform(self, effect: core.Effect) -> None:
        match effect:
            case core.Restore(partitions, retained):
                for partition in partitions:
                    self.restoring[partition] = retained.get(partition)
            case core.ResumeAt(partition, offset) | core.Rewind(partition, offset, False):
                self.delivering[partition] = offset
            case core.Pause(partitions):
                for partition in partitions:
                    self.delivering.pop(partition, None)
            case core.Rewind():
                pass
            case core.Commit(offsets):
                self.commit(offsets)
            case core.KeepState():
                self.saved = {p: list(fold) for p, fold in self.device.items()}
                self.outputs = {}
            case core.Abort():
                self.outputs = {}
            case core.UndoState():
                for partition in self.device:
                    self.device[partition] = list(self.saved[partition])
                self.outputs = {}
            case core.Drain(partitions):
                for partition in partitions:
                    assert self.device[partition] == list(range(self.cluster.committed[partition]))
            case core.Forget(partitions):
                for partition in partitions:
                    self.device.pop(partition, None)
                    self.saved.pop(partition, None)
                    self.restoring.pop(partition, None)
                    self.delivering.pop(partition, None)
            case core.Close():
                self.closed = True

    def commit(self, offsets: Mapping[int, int]) -> None:
        outcome = self.outcomes.pop() if self.outcomes else "ok"
        if outcome == "ok":
            self.cluster.commit(offsets, self.outputs)
            self.dispatch(core.Committed())
        elif outcome == "refused":
            self.dispatch(core.CommitRefused())
        else:
            if outcome == "unknown, committed":
                self.cluster.commit(offsets, self.outputs)
            self.dispatch(core.ProducerReplaced(dict(self.cluster.committed)))

    def restore(self, partition: int) -> None:
        kept = self.restoring.pop(partition)
        committed = self.cluster.committed[partition]
        if kept is None or kept != committed:
            self.device[partition] = list(range(committed))
        self.saved[partition] = list(self.device[partition])
        self.dispatch(core.Restored(partition, committed))

    def deliver(self, partition: int, ticks: int) -> None:
        part = self.state.partitions.get(partition)
        if part is None or part.phase is not core.Phase.RUNNING:
            return
        offsets = range(part.position, part.position + ticks)
        self.device[partition] += offsets
        self.outputs.setdefault(partition, []).extend(offsets)
        self.now += 1
        self.dispatch(core.Stepped({partition: part.position + ticks}, self.now))

    def check(self) -> None:
        for partition, seen in self.cluster.published.items():
            assert seen == list(range(self.cluster.committed[partition]))
        for partition, part in self.state.partitions.items():
            if part.phase in (core.Phase.RUNNING, core.Phase.SUSPENDED):
                assert self.device[partition] == list(range(part.position))
                assert part.committed == self.cluster.committed[partition]
            if part.phase is core.Phase.RUNNING:
                assert partition in self.delivering


partition_numbers = st.sampled_from(PARTITIONS)
actions = st.one_of(
    st.tuples(st.just("deliver"), partition_numbers, st.integers(1, 5)),
    st.tuples(st.just("due"), st.integers(0, 20)),
    st.tuples(st.just("restore"), partition_numbers),
    st.tuples(st.just("suspend"), partition_numbers),
    st.tuples(st.just("resume"), partition_numbers),
    st.tuples(st.just("revoke"), st.sets(partition_numbers, min_size=1), st.integers(0, 3)),
    st.tuples(st.just("lose"), st.sets(partition_numbers, min_size=1), st.integers(0, 3)),
    st.tuples(st.just("assign"), st.sets(partition_numbers)),
    st.tuples(st.just("crash"), st.integers(0, 3)),
)
outcomes = st.lists(
    st.sampled_from(["ok", "refused", "unknown, committed", "unknown, aborted"]), max_size=12
)


def act(shell: Shell, action: tuple, incremental: bool) -> Shell:
    match action:
        case ("deliver", partition, ticks):
            shell.deliver(partition, ticks)
        case ("due", ahead):
            shell.now += ahead
            shell.dispatch(core.Due(shell.now, INTERVAL))
        case ("restore", partition):
            if partition in shell.restoring:
                shell.restore(partition)
        case ("suspend", partition):
            part = shell.state.partitions.get(partition)
            if part is not None and part.phase is core.Phase.RUNNING:
                shell.dispatch(core.Suspended(partition))
        case ("resume", partition):
            shell.dispatch(core.Resumed(partition))
        case ("revoke", partitions, ticks):
            held = tuple(shell.state.partitions) if not incremental else tuple(sorted(partitions))
            shell.dispatch(core.Revoked(held, incremental))
            for partition in held:
                if partition not in shell.restoring:
                    shell.cluster.other_member_works(partition, ticks)
            if not incremental:
                given_back = tuple(sorted(partitions))
                shell.dispatch(core.Assigned(given_back, incremental=False))
        case ("lose", partitions, ticks):
            lost = tuple(sorted(partitions))
            shell.dispatch(core.Lost(lost))
            for partition in lost:
                shell.cluster.other_member_works(partition, ticks)
        case ("assign", partitions):
            if incremental:
                shell.dispatch(core.Assigned(tuple(sorted(partitions)), incremental=True))
        case ("crash", _):
            shell = Shell(shell.cluster, shell.outcomes)
            shell.dispatch(core.Assigned(PARTITIONS, incremental))
    return shell


@settings(max_examples=400, deadline=None)
@given(st.lists(actions, max_size=40), outcomes, st.booleans())
def test_every_tick_is_published_once_under_any_schedule(schedule, endings, incremental):
    shell = Shell(Cluster(), endings)
    shell.dispatch(core.Assigned(PARTITIONS, incremental))

    for action in schedule:
        shell = act(shell, action, incremental)
        shell.check()


def test_an_abort_rewinds_running_partitions_to_their_committed_offsets():
    shell = Shell(Cluster(), ["refused"])
    shell.dispatch(core.Assigned((0, 1), incremental=True))
    shell.restore(0)
    shell.restore(1)
    shell.deliver(0, 3)

    shell.dispatch(core.Due(shell.now + INTERVAL, INTERVAL))

    assert shell.delivering == {0: 0, 1: 0}
    assert shell.device == {0: [], 1: []}
    assert shell.state.began_ns is None


def test_nothing_is_committed_before_the_interval_has_passed():
    shell = Shell(Cluster(), [])
    shell.dispatch(core.Assigned((0,), incremental=True))
    shell.restore(0)
    shell.deliver(0, 2)
    began = shell.now

    shell.dispatch(core.Due(began + INTERVAL - 1, INTERVAL))
    before = shell.cluster.committed[0]
    shell.dispatch(core.Due(began + INTERVAL, INTERVAL))

    assert before == 0
    assert shell.cluster.committed[0] == 2


def test_a_stop_commits_drains_and_closes_in_this_order():
    state = core.CoreState()
    state, _ = core.advance(state, core.Assigned((0,), True))
    state, _ = core.advance(state, core.Restored(0, 5))
    state, _ = core.advance(state, core.Stepped({0: 7}, 1))

    state, effects = core.advance(state, core.StopRequested())

    assert effects == [core.Commit({0: 7}), core.Drain((0,)), core.Close()]
    assert core.advance(state, core.StopRequested())[1] == []


def test_an_eager_rebalance_keeps_states_that_come_back():
    shell = Shell(Cluster(), [])
    shell.dispatch(core.Assigned((0, 1), incremental=False))
    shell.restore(0)
    shell.restore(1)
    shell.deliver(0, 4)

    shell.dispatch(core.Revoked((0, 1), incremental=False))
    shell.dispatch(core.Assigned((0,), incremental=False))

    assert shell.restoring == {0: 4}
    assert 1 not in shell.device


@pytest.mark.parametrize("phase", list(core.Phase))
def test_every_phase_but_closed_can_be_lost(phase):
    if phase is not core.Phase.CLOSED:
        assert core.TRANSITIONS[phase, "Lost"] is core.Phase.CLOSED
