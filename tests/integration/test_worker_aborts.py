"""Commits that are refused, or whose answer is lost, against a broker that is real or ours.

The failures are injected around the producer's calls; consumer, broker and device are as ever.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from worker_rig import Rig, in_process_worker, running

from pipeline.log import Log
from producers.client import Abortable, OutcomeUnknown, ProducerLost, TransactionalProducer

FAILURES = ("refused", "answer lost, committed", "answer lost, aborted", "refused twice")


class FlakyProducer(TransactionalProducer):
    """Fails as a cluster does, in a seeded order; `outcomes` counts what happened.

    Six commits that reach the broker take at least one full cycle, so that a run of six pieces
    has met every failure, however the ticks were cut into transactions.
    """

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.chance = random.Random(5)
        self.cycle: list[str] = []
        self.outcomes: dict[str, int] = {}

    def commit(self, *arguments) -> None:
        if not self.cycle:
            self.cycle = ["ok"] * 4 + list(FAILURES)
            self.chance.shuffle(self.cycle)
        outcome = self.cycle.pop()
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if outcome.startswith("refused"):
            self.abort_fails = outcome == "refused twice"
            raise Abortable("injected")
        if outcome == "answer lost, aborted":
            raise OutcomeUnknown("injected")
        super().commit(*arguments)
        if outcome == "answer lost, committed":
            raise OutcomeUnknown("injected")

    abort_fails = False

    def abort(self, deadline_seconds: float) -> None:
        if self.abort_fails:
            self.abort_fails = False
            raise ProducerLost("injected")
        super().abort(deadline_seconds)

    def produce(self, *arguments) -> None:
        if self.chance.random() < 0.03:
            raise Abortable("injected while producing")
        super().produce(*arguments)


@pytest.fixture
def rig(broker, unique_name, tmp_path) -> Iterator[Rig]:
    made = Rig(broker.bootstrap_servers, unique_name("aborts"), tmp_path)
    yield made
    made.close()


def test_aborts_and_lost_answers_repeat_nothing_lose_nothing_and_keep_the_bits(rig, tmp_path):
    with (tmp_path / "log").open("w") as stream:
        worker, producer = in_process_worker(
            rig, FlakyProducer, Log("flaky", stream=stream), USP__WORKER__COMMIT_INTERVAL_MS="20"
        )
        with running(worker):
            for piece in range(6):
                rig.send_walks(assets=25, ticks=500, seed=piece, first=500 * piece)
                rig.read_until_answered()

    rig.assert_every_input_is_answered_once()
    rig.assert_sequences_never_skip()
    rig.assert_bits_equal_the_library()
    assert set(FAILURES) <= producer.outcomes.keys()
