"""The worker: one loop that polls, advances the core, and performs its effects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from consumers.client import Membership, RebalanceHandlers, TickConsumer
from consumers.events import Polled, Record
from consumers.reader import LogReader, Unanswered
from consumers.settings import common
from pipeline import core
from pipeline.config import Config
from pipeline.generations import Timeline
from pipeline.log import Log
from pipeline.outputs import Framings, OutputWriter
from pipeline.placement import Placement
from pipeline.pool import StatePool
from pipeline.processing import OUTSIDE_OF_THE_LOG, Stepper, decode, next_positions
from pipeline.recovery import RestoredPartition
from pipeline.restore import Restorer
from pipeline.transaction import Transactor
from pipeline.writer_schemas import WriterSchemas
from producers.client import (
    Abortable,
    OutcomeUnknown,
    Outgoing,
    ProducerLost,
    TransactionalProducer,
    Unreachable,
)
from schemas.codec import TickDecoder

IDLE_POLL_SECONDS = 0.1
BUSY_POLL_SECONDS = 0.002
COMMIT_SECONDS = 5.0
"""Budget of one commit; below the transaction timeout, so that an expired one is noticed."""

REVOKE_SECONDS = 10.0
"""Budget of all snapshots at a revocation; the group waits for us meanwhile."""

RECONNECT_SECONDS = 5.0
LONG_STEP = 0.25
"""Share of the transaction timeout above which a micro-batch counts as long."""

FLOOR_CHECK_SECONDS = 1.0
REPORT_SECONDS = 10.0
ASSIGNMENT_SECONDS = 30.0
MAX_POLL_INTERVAL_MS = 300_000


class StoppedWithoutBroker(Exception):
    """Asked to stop while the broker is away: nothing is lost, the next start replays."""


def client_settings(config: Config) -> dict[str, Any]:
    """What all Kafka clients of this worker share."""
    return common(config.kafka.bootstrap_servers, config.instance, config.kafka.extra)


class Worker:
    """Performs the effects of `pipeline.core` on real clients and the real device."""

    def __init__(
        self,
        config: Config,
        pool: StatePool,
        producer: TransactionalProducer,
        reader: LogReader,
        framings: Framings,
        registry: Any,
        partitions: int,
        environment: str,
        log: Log,
    ) -> None:
        self._config = config
        self._pool = pool
        self._producer = producer
        self._reader = reader
        self._log = log
        self._core = core.CoreState()
        self._committed: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._uncommitted_starts: set[int] = set()
        self._passed_over = False
        self._undone = 0
        self._stop_deadline: float | None = None
        self._step_seconds = 0.0
        self._placement = Placement(partitions)
        self._placement_reported = (0, 0)
        self._next_report = 0.0
        self._assigned_once = False
        self._expect_assignment_by = 0.0
        self._next_floor_check = 0.0
        self._stop = threading.Event()
        self._closed = False
        self._decoder = TickDecoder(
            max_bytes=config.schemas.max_tick_bytes, registry=registry is not None
        )
        self._schemas = WriterSchemas(registry, self._decoder, log)
        self._stepper = Stepper(pool)
        self._outputs = OutputWriter(config.topics, framings, config.telemetry.every_ticks)
        self._restorer = Restorer(
            config,
            reader,
            pool,
            self._stepper,
            self._decoder,
            lambda schema_id: self._schemas.settled(schema_id, accept_unknown=False),
            environment,
            log,
        )
        kafka = config.kafka
        static = kafka.static_membership and kafka.group_protocol == "classic"
        self._consumer = TickConsumer(
            client_settings(config),
            Membership(
                group=kafka.application_id,
                partitions=partitions,
                instance_id=config.instance if static else None,
                protocol=kafka.group_protocol,
                assignment=kafka.assignment,
                session_timeout_ms=kafka.session_timeout_ms,
                max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            ),
            config.topics.ticks,
            RebalanceHandlers(self._on_assigned, self._on_revoked, self._on_lost),
        )
        self._transactor = Transactor(
            config, pool, producer, self._outputs, self._consumer.group_metadata, environment
        )

    # -- life --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the loop to finish, commit, snapshot and leave."""
        self._stop.set()

    def run(self) -> None:
        """Join the group and work until `stop`; raises what ends a worker otherwise."""
        self._consumer.subscribe()
        self._expect_assignment_by = time.monotonic() + ASSIGNMENT_SECONDS
        self._log.info("joined", group=self._config.kafka.application_id)
        while not self._closed:
            if self._stop.is_set():
                self._stop_deadline = (
                    time.monotonic() + self._config.worker.shutdown_timeout_seconds
                )
                self._dispatch(core.StopRequested())
                continue
            self._turn()
        self._schemas.close()

    def _turn(self) -> None:
        for restored in self._restorer.turn():
            self._take_over(restored)
        self._resume_known()
        self._settle_starts()
        undone = self._undone
        polled = self._consumer.poll(
            self._config.worker.max_batch, self._wait(), self._config.worker.linger_ms / 1000
        )
        if self._undone == undone:
            self._process(polled)
        else:
            # A commit inside a rebalance callback was refused and the positions went back, while
            # the records in hand were fetched before that.
            self._rewind_running()
        self._dispatch(core.Due(time.monotonic_ns(), self._commit_interval_ns()))
        self._move_idle_floors()
        self._schemas.refresh()
        self._report()

    def _commit_interval_ns(self) -> int:
        # A transaction stays open over the next micro-batch. Where that takes long against the
        # transaction timeout, each one is committed by itself, or none ever would be.
        longest = self._config.kafka.transaction_timeout_ms / 1000 * LONG_STEP
        if self._step_seconds > longest:
            return 0
        return self._config.worker.commit_interval_ms * 1_000_000

    def _wait(self) -> float:
        if self._restorer.busy:
            return BUSY_POLL_SECONDS
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
            outgoing.append(self._outputs.dead_letter(record, rejection, self._config.instance))
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
            self._note_coverage(info.records, info.asset_id, results, now_ns)
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

    def _note_coverage(
        self, records: Iterable[Record], assets: Iterable[str], results: Any, now_ns: int
    ) -> None:
        every = self._config.snapshot.every_ticks
        if self._config.ingestion.clock == "wall":
            every = 1  # decisions on the host's clock cannot be replayed
        due = results.answered & (results.answered_ticks % every == 0)
        touched: dict[int, tuple[list[str], list[int]]] = {}
        for record, asset, is_due in zip(records, assets, due.tolist(), strict=True):
            names, offsets = touched.setdefault(record.partition, ([], []))
            names.append(asset)
            offsets.append(record.offset)
            if is_due:
                self._transactor.ledgers[record.partition].mark_due([asset])
        for partition, (names, offsets) in touched.items():
            self._transactor.ledgers[partition].touch(names, offsets, now_ns)
        is_first = (results.answered_ticks == 1) & results.answered
        if is_first.any():
            for record, asset, new in zip(records, assets, is_first.tolist(), strict=True):
                if new:
                    self._placement.first_seen(record.partition, [asset])

    def _report(self) -> None:
        """Say now and then what an operator should know and no error shows."""
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + REPORT_SECONDS
        if not self._assigned_once and now > self._expect_assignment_by:
            self._expect_assignment_by = now + ASSIGNMENT_SECONDS
            self._log.warning(
                "no_assignment_yet",
                protocol=self._config.kafka.group_protocol,
                remedy='kafka.group_protocol = "consumer" needs brokers 4.0 or newer; a static '
                "member waits for its session, at most kafka.session_timeout_ms",
            )
        found = (self._placement.misplaced, self._placement.split)
        if found != self._placement_reported:
            self._placement_reported = found
            self._log.warning(
                "placement",
                assets_not_where_murmur2_puts_them=found[0],
                assets_in_several_partitions=found[1],
                meaning="state belongs to (partition, asset); give producers "
                "partitioner=murmur2_random",
            )

    def _write(self, outgoing: list[Outgoing]) -> bool:
        """Produce inside the transaction; False where it had to be undone."""
        return self._attempt(lambda: self._transactor.produce(outgoing, COMMIT_SECONDS))

    # -- the core ----------------------------------------------------------------------------

    def _dispatch(self, event: core.Event) -> None:
        self._core, effects = core.advance(self._core, event)
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: core.Effect) -> None:
        match effect:
            case core.Restore(partitions, retained):
                self._restorer.request(partitions, retained)
            case core.ResumeAt(partition, offset):
                self._consumer.resume_at(partition, offset)
            case core.Pause(partitions):
                self._consumer.pause(partitions)
            case core.Commit(offsets):
                if self._attempt(lambda: self._transactor.commit(offsets, COMMIT_SECONDS)):
                    self._dispatch(core.Committed())
            case core.KeepState(offsets):
                self._pool.commit()
                self._transactor.confirm()
                self._committed.update(offsets)
                self._uncommitted_starts -= offsets.keys()
            case core.Abort():
                self._abort()
            case core.UndoState():
                self._undone += 1
                self._pool.rollback()
                self._transactor.forget()
            case core.Rewind(partition, offset, _):
                self._consumer.rewind(partition, offset)
            case core.Drain(partitions):
                self._drain(partitions)
            case core.Forget(partitions):
                self._forget(partitions)
            case core.Close():
                self._consumer.close()
                self._closed = True

    def _attempt(self, call: Callable[[], None]) -> bool:
        """Run a call of the producer; on failure let the core undo, and say False."""
        try:
            call()
            return True
        except Abortable as error:
            self._log.warning("transaction_aborted", reason=str(error))
            self._dispatch(core.CommitRefused())
        except (OutcomeUnknown, ProducerLost) as error:
            self._log.warning("producer_replaced", reason=str(error))
            self._replace_producer()
            self._dispatch(core.ProducerReplaced(self._offsets_at_broker()))
        return False

    def _abort(self) -> None:
        try:
            self._producer.abort(COMMIT_SECONDS)
        except (Abortable, OutcomeUnknown, ProducerLost) as error:
            self._log.warning("producer_replaced", reason=str(error))
            self._replace_producer()

    def _replace_producer(self) -> None:
        """A new producer under the same identity: it ends whatever the old one left open."""
        self._producer.abandon()
        while True:
            try:
                self._producer.initialise(RECONNECT_SECONDS)
                return
            except (Unreachable, ProducerLost, Abortable) as error:
                self._log.warning("broker_away", reason=str(error))
                self._give_up_if_stopping("the broker is away")

    def _offsets_at_broker(self) -> Mapping[int, int]:
        partitions = sorted({*self._core.partitions, *(self._core.intent or {})})
        while True:
            try:
                located = self._reader.committed(
                    self._config.topics.ticks, partitions, RECONNECT_SECONDS
                )
            except Unanswered as error:
                self._log.warning("broker_away", reason=str(error))
                self._give_up_if_stopping("the committed offsets cannot be read")
                continue
            return {p: found.offset for p, found in located.items() if found.offset is not None}

    def _give_up_if_stopping(self, why: str) -> None:
        if self._stop.wait(0.2):
            raise StoppedWithoutBroker(why)

    # -- snapshots at the end ----------------------------------------------------------------

    def _drain(self, partitions: tuple[int, ...]) -> None:
        """Snapshot what is uncovered, so that whoever comes next replays nothing."""
        deadline = self._stop_deadline or time.monotonic() + REVOKE_SECONDS
        for partition in partitions:
            offset = self._committed[partition]
            try:
                while (left := deadline - time.monotonic()) > 0:
                    seconds = max(min(left, COMMIT_SECONDS), 0.5)
                    if not self._transactor.snapshot_oldest(partition, offset, seconds):
                        break
            except (Abortable, OutcomeUnknown, ProducerLost) as error:
                # Without these snapshots the next owner replays more; nothing is lost.
                self._log.warning("drain_ended_early", partition=partition, reason=str(error))
                self._transactor.forget()
                self._abort()
                return

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
        self._assigned_once = True
        self._dispatch(core.Assigned(partitions, self._consumer.incremental))

    def _on_revoked(self, partitions: tuple[int, ...]) -> None:
        self._log.info("revoked", partitions=partitions)
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
        self._placement.first_seen(partition, self._pool.assets(partition))
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
        """Ticks that nothing follows get their snapshot when they are old."""
        now = time.monotonic()
        if now < self._next_floor_check or self._core.began_ns is not None:
            return
        self._next_floor_check = now + FLOOR_CHECK_SECONDS
        if any(self._transactor.overdue(partition) for partition in self._core.holding()):
            self._dispatch(core.Due(time.monotonic_ns(), 0, forced=True))
