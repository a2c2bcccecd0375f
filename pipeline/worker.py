"""The worker: one loop that polls, advances the core, and performs its effects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from consumers.client import Membership, RebalanceHandlers, TickConsumer
from consumers.events import ConsumerFailed, Polled, Record
from consumers.settings import common
from pipeline import core
from pipeline.config import Config
from pipeline.coverage import Coverage
from pipeline.dead_letters import DeadLetters
from pipeline.generations import Timeline
from pipeline.history import PastTicks
from pipeline.log import Log
from pipeline.outputs import OutputWriter
from pipeline.patience import Patience
from pipeline.placement import Placement
from pipeline.pool import StatePool
from pipeline.processing import OUTSIDE_OF_THE_LOG, Stepper, decode, next_positions
from pipeline.recovery import Kept, RestoredPartition
from pipeline.reports import Reports
from pipeline.restore import Restorer
from pipeline.settlement import Settlement, StoppedWithoutBroker
from pipeline.startup import Connection
from pipeline.transaction import Transactor
from pipeline.writer_schemas import WriterSchemas
from producers.client import Outgoing
from schemas.codec import TickDecoder

__all__ = ["StoppedWithoutBroker", "Worker", "client_settings"]

IDLE_POLL_SECONDS = 0.1
BUSY_POLL_SECONDS = 0.002
RESTORE_POLL_SECONDS = 0.02

REVOKE_SECONDS = 10.0
"""Budget of a revocation, last commit and snapshots; the group waits for us meanwhile."""

RESERVE_SECONDS = 2.0
"""Of a budget, what snapshots leave for what comes after them."""

LONG_STEP = 0.25
"""Share of the transaction timeout above which a micro-batch counts as long."""

DUEL_SECONDS = 10.0
"""A second fence within this time comes from a member that is no worker and does not yield."""

FLOOR_CHECK_SECONDS = 1.0
MAX_POLL_INTERVAL_MS = 300_000


def client_settings(config: Config) -> dict[str, Any]:
    """What all Kafka clients of this worker share."""
    return common(config.kafka.bootstrap_servers, config.instance, config.kafka.extra)


class Worker:
    """Performs the effects of `pipeline.core` on real clients and the real device.

    `patience` limits what it does after `stop`.
    """

    def __init__(
        self,
        config: Config,
        pool: StatePool,
        connection: Connection,
        environment: str,
        log: Log,
        patience: Patience | None = None,
    ) -> None:
        self._config = config
        self._pool = pool
        self._log = log
        self._patience = patience or Patience()
        self._core = core.CoreState()
        self._committed: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._uncommitted_starts: set[int] = set()
        self._passed_over = False
        self._undone = 0
        self._step_seconds = 0.0
        self._next_floor_check = 0.0
        self._joined_again = float("-inf")
        self._closed = False
        self._placement = Placement(connection.partitions)
        self._reports = Reports(log, config.kafka.group_protocol, self._placement)
        self._decoder = TickDecoder(
            max_bytes=config.schemas.max_tick_bytes, registry=connection.registry is not None
        )
        self._schemas = WriterSchemas(connection.registry, self._decoder, log)
        self._stepper = Stepper(pool)
        self._outputs = OutputWriter(
            config.topics, connection.framings, config.telemetry.every_ticks
        )
        self._dead_letters = DeadLetters(
            config.topics, config.instance, connection.largest_dead_letter
        )
        self._restorer = Restorer(
            config,
            connection.offsets,
            connection.fetcher,
            pool,
            self._stepper,
            self._decoder,
            lambda schema_id: self._schemas.settled(schema_id, accept_unknown=False),
            PastTicks(config, pool, connection.partitions),
            environment,
            log,
        )
        self._consumer = TickConsumer(
            client_settings(config),
            membership(config, connection.partitions),
            config.topics.ticks,
            RebalanceHandlers(self._on_assigned, self._on_revoked, self._on_lost),
        )
        self._transactor = Transactor(
            config,
            pool,
            connection.producer,
            self._outputs,
            self._consumer.group_metadata,
            environment,
        )
        self._coverage = Coverage(config, self._transactor, self._placement)
        self._settlement = Settlement(
            connection.producer,
            self._transactor,
            connection.offsets,
            config.topics.ticks,
            config.kafka.transaction_timeout_ms,
            self._patience,
            log,
        )

    # -- life --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the loop to finish, commit, snapshot and leave."""
        self._patience.stop(self._config.worker.shutdown_timeout_seconds)

    def run(self) -> None:
        """Join the group and work until `stop`; raises what ends a worker otherwise."""
        self._consumer.subscribe()
        self._log.info("joined", group=self._config.kafka.application_id)
        while not self._closed:
            if self._patience.stopping:
                self._dispatch(core.StopRequested())
            else:
                self._turn()
        self._schemas.close()

    def _turn(self) -> None:
        # Nobody else has to wait for a partition that is being rebuilt.
        patience = 0.0 if self._core.running() else RESTORE_POLL_SECONDS
        for restored in self._restorer.turn(patience):
            self._take_over(restored)
        self._resume_known()
        self._settle_starts()
        undone = self._undone
        polled = self._poll()
        if self._undone == undone:
            self._process(polled)
        else:
            # A commit inside a rebalance callback was refused and the positions went back, while
            # the records in hand were fetched before that.
            self._rewind_running()
        self._dispatch(core.Due(time.monotonic_ns(), self._commit_interval_ns()))
        self._move_idle_floors()
        self._schemas.refresh()
        self._reports.complaints(polled.complaints)
        self._reports.turn()

    def _poll(self) -> Polled:
        """What the group and the log deliver; where the group says that another has this worker's
        name, the transaction coordinator decides between the two.

        It knows whose producer is the newest, and so exactly one of them goes on. The group does
        not: a frozen worker that comes back would fence the member of its successor, whose producer
        has fenced its own.
        """
        worker = self._config.worker
        try:
            return self._consumer.poll(worker.max_batch, self._wait(), worker.linger_ms / 1000)
        except ConsumerFailed as error:
            duel = time.monotonic() - self._joined_again < DUEL_SECONDS
            if error.kind != "fenced" or duel:
                raise
        name = self._config.instance.encode()
        void = Outgoing(self._config.topics.snapshots, 0, name, None, 0, [])
        self._settlement.confirm_identity(void)
        self._log.warning("joining_again", reason="fenced, and the producer is the newest")
        self._joined_again = time.monotonic()
        self._consumer.join_again()
        return Polled([], {}, {})

    def _commit_interval_ns(self) -> int:
        # A transaction stays open over the next micro-batch. Where that takes long against the
        # transaction timeout, each one is committed by itself, or none ever would be.
        longest = self._config.kafka.transaction_timeout_ms / 1000 * LONG_STEP
        if self._step_seconds > longest or self._transactor.is_full:
            return 0
        if self._transactor.overdue(self._committed_of_held()):
            return 0  # one bounded transaction takes only part of what is overdue
        return self._config.worker.commit_interval_ms * 1_000_000

    def _committed_of_held(self) -> dict[int, int]:
        return {partition: self._committed[partition] for partition in self._core.holding()}

    def _wait(self) -> float:
        if self._restorer.busy:
            return BUSY_POLL_SECONDS
        if self._next_floor_check == 0.0:
            return 0.0
        began = self._core.began_ns
        if began is None:
            return IDLE_POLL_SECONDS
        left = began / 1e9 + self._config.worker.commit_interval_ms / 1000 - time.monotonic()
        return min(max(left, 0.0), IDLE_POLL_SECONDS)

    # -- ticks -------------------------------------------------------------------------------

    def _process(self, polled: Polled) -> None:
        if self._unsettled():
            # Nothing is stepped before the start is committed; these records come again.
            self._passed_over = True
            return
        records = [record for record in polled.records if self._wanted(record)]
        positions: dict[int, int] = {}
        if records:
            stepped = self._step(records)
            if stepped is None:
                return
            positions = stepped
        for partition, end in polled.ends.items():
            part = self._core.partitions.get(partition)
            if part is None or part.phase is not core.Phase.RUNNING:
                continue
            if end > positions.get(partition, part.position):
                positions[partition] = end
        if positions:
            self._dispatch(core.Stepped(positions, time.monotonic_ns()))

    def _wanted(self, record: Record) -> bool:
        part = self._core.partitions.get(record.partition)
        return (
            part is not None and part.phase is core.Phase.RUNNING and record.offset >= part.position
        )

    def _step(self, records: list[Record]) -> dict[int, int] | None:
        """Fold records and write their outputs; None where the transaction had to be undone."""
        now_ns = time.time_ns()
        began_ns = time.monotonic_ns()
        decoded = decode(self._decoder, self._config.ingestion, records, now_ns)
        outgoing: list[Outgoing] = []
        for rejection in decoded.rejected:
            record = records[rejection.index]
            if rejection.reason in OUTSIDE_OF_THE_LOG:
                self._transactor.ledgers[record.partition].skip(record.offset)
            outgoing.append(self._dead_letters.make(record, rejection))
        if len(decoded.positions):
            info, results = self._stepper.step(
                records,
                decoded,
                lambda partition: Timeline(
                    self._config.predictor, self._transactor.ledgers[partition].generations
                ),
                journal=True,
            )
            self._step_seconds = info.step_seconds
            self._coverage.note(info, results, now_ns)
            outgoing += self._outputs.step_outputs(info, results)
        positions = next_positions(records, decoded.waiting)
        if outgoing and not self._write(outgoing):
            return None
        if positions:
            # Counted from before the step: a step longer than the interval commits at once.
            self._dispatch(core.Stepped(positions, began_ns))
        for partition, (_, schema_id) in decoded.waiting.items():
            self._waiting[partition] = schema_id
            self._dispatch(core.Suspended(partition))
        return positions

    def _write(self, outgoing: list[Outgoing]) -> bool:
        """Produce inside the transaction; False where it had to be undone."""
        return self._attempt(lambda seconds: self._transactor.produce(outgoing, seconds))

    # -- the core ----------------------------------------------------------------------------

    def _dispatch(self, event: core.Event) -> None:
        self._core, effects = core.advance(self._core, event)
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: core.Effect) -> None:
        match effect:
            case core.Restore(partitions, retained):
                kept = {
                    partition: Kept(offset, self._transactor.ledgers[partition].generation.number)
                    for partition, offset in retained.items()
                }
                self._restorer.request(partitions, kept)
            case core.ResumeAt(partition, offset):
                self._consumer.resume_at(partition, offset)
            case core.Pause(partitions):
                self._consumer.pause(partitions)
            case core.Commit(offsets):
                if self._attempt(lambda seconds: self._transactor.commit(offsets, seconds)):
                    self._dispatch(core.Committed())
            case core.KeepState(offsets):
                self._pool.commit()
                self._transactor.confirm()
                self._committed.update(offsets)
                self._uncommitted_starts -= offsets.keys()
            case core.Abort():
                self._settlement.abort()
            case core.UndoState():
                self._undone += 1
                self._pool.rollback()
                self._transactor.forget()
            case core.Rewind(partition, offset, _):
                self._consumer.rewind(partition, offset)
            case core.Drain(partitions):
                offsets = {partition: self._committed[partition] for partition in partitions}
                self._settlement.drain(offsets, RESERVE_SECONDS)
            case core.Forget(partitions):
                self._forget(partitions)
            case core.Close():
                self._consumer.close()
                self._closed = True

    def _attempt(self, call: Callable[[float], None]) -> bool:
        """Run a call of the producer; on failure let the core undo, and say False."""
        failed = self._settlement.attempt(call, self._partitions_in_question)
        if failed is None:
            return True
        self._dispatch(failed)
        return False

    def _partitions_in_question(self) -> set[int]:
        return {*self._core.partitions, *(self._core.intent or {})}

    def _forget(self, partitions: tuple[int, ...]) -> None:
        self._restorer.cancel(partitions)
        for partition in partitions:
            self._placement.forget(partition, self._pool.assets(partition))
            self._pool.drop(partition)
            self._transactor.ledgers.pop(partition, None)
            self._committed.pop(partition, None)
            self._waiting.pop(partition, None)
            self._uncommitted_starts.discard(partition)

    # -- partitions --------------------------------------------------------------------------

    def _on_assigned(self, partitions: tuple[int, ...]) -> None:
        self._log.info("assigned", partitions=partitions)
        self._reports.assigned()
        self._dispatch(core.Assigned(partitions, self._consumer.incremental))

    def _on_revoked(self, partitions: tuple[int, ...]) -> None:
        self._log.info("revoked", partitions=partitions)
        with self._patience.within(REVOKE_SECONDS):
            self._dispatch(core.Revoked(partitions, self._consumer.incremental))

    def _on_lost(self, partitions: tuple[int, ...]) -> None:
        self._log.warning("lost", partitions=partitions)
        self._dispatch(core.Lost(partitions))

    def _take_over(self, restored: RestoredPartition) -> None:
        partition = restored.partition
        if restored.ledger is not None:
            self._transactor.ledgers[partition] = restored.ledger
        if restored.is_new or self._transactor.ledgers[partition].control_due:
            self._uncommitted_starts.add(partition)
        self._committed[partition] = restored.committed
        self._placement.restored(partition, self._pool.assets(partition))
        self._transactor.announce(restored.announcements)
        self._dispatch(core.Restored(partition, restored.committed))

    def _unsettled(self) -> bool:
        return not self._uncommitted_starts.isdisjoint(self._core.holding())

    def _settle_starts(self) -> None:
        """Commit where new partitions begin, before their first tick is stepped."""
        if self._unsettled():
            self._dispatch(core.Due(time.monotonic_ns(), 0, forced=True))
        if self._passed_over and not self._unsettled():
            self._passed_over = False
            self._rewind_running()

    def _rewind_running(self) -> None:
        for partition in self._core.running():
            self._consumer.rewind(partition, self._core.partitions[partition].position)

    def _resume_known(self) -> None:
        for partition, schema_id in list(self._waiting.items()):
            if partition in self._waiting and self._schemas.settled(schema_id):
                for other in [p for p, wanted in self._waiting.items() if wanted == schema_id]:
                    del self._waiting[other]
                    self._dispatch(core.Resumed(other))

    def _move_idle_floors(self) -> None:
        """Ticks that nothing follows get their snapshot when they are old: as many bounded
        transactions as it takes, with a poll between two of them."""
        now = time.monotonic()
        if now < self._next_floor_check or self._core.began_ns is not None:
            return
        self._next_floor_check = now + FLOOR_CHECK_SECONDS
        if self._transactor.overdue(self._committed_of_held()):
            self._dispatch(core.Due(time.monotonic_ns(), 0, forced=True))
            if self._transactor.overdue(self._committed_of_held()):
                self._next_floor_check = 0.0


def membership(config: Config, partitions: int) -> Membership:
    """This worker's place in its group."""
    kafka = config.kafka
    static = kafka.static_membership and kafka.group_protocol == "classic"
    return Membership(
        group=kafka.application_id,
        partitions=partitions,
        instance_id=config.instance if static else None,
        protocol=kafka.group_protocol,
        assignment=kafka.assignment,
        session_timeout_ms=kafka.session_timeout_ms,
        max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
    )
