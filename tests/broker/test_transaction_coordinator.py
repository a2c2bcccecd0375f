"""The transaction coordinator, without a server and with a clock that the tests turn."""

from __future__ import annotations

import pytest

from pipeline.broker.protocol import ErrorCode
from pipeline.broker.transactions import NOBODY, ProducerIdentity, TransactionCoordinator

PARTITION = ("topic", 0)


class Scene:
    """A coordinator that notes what it does to logs and groups."""

    def __init__(self):
        self.ended = []
        self.coordinator = TransactionCoordinator(
            lambda topic, partition, producer, commit: self.ended.append(
                (topic, partition, producer.epoch, commit)
            ),
            lambda group, _, commit: self.ended.append((group, commit)),
        )

    def init(self, expected=NOBODY, name="id"):
        return self.coordinator.init_producer(name, 10.0, expected)

    def open(self, producer, now=0.0):
        return self.coordinator.add_partitions("id", producer, {PARTITION}, now)


def test_every_start_raises_the_epoch_of_the_same_producer():
    scene = Scene()

    (_, first), (_, second) = scene.init(), scene.init()

    assert second == (first.producer_id, first.epoch + 1)


def test_idempotent_producers_get_ids_of_their_own():
    scene = Scene()

    (_, first), (_, second) = scene.init(name=None), scene.init(name=None)

    assert first.producer_id != second.producer_id
    assert first.epoch == second.epoch == 0


def test_a_start_aborts_the_open_transaction_under_a_higher_epoch():
    scene = Scene()
    _, first = scene.init()
    scene.open(first)

    _, second = scene.init()

    assert scene.ended == [("topic", 0, first.epoch + 1, False)]
    assert second.epoch == first.epoch + 2


def test_an_older_instance_is_fenced_everywhere():
    scene = Scene()
    _, old = scene.init()
    scene.init()

    assert scene.open(old) is ErrorCode.PRODUCER_FENCED
    assert scene.coordinator.add_group("id", old, "group", 0.0) is ErrorCode.PRODUCER_FENCED
    assert scene.coordinator.end("id", old, True) is ErrorCode.PRODUCER_FENCED
    assert scene.init(expected=old) == (ErrorCode.PRODUCER_FENCED, NOBODY)
    assert scene.coordinator.write_error("id", old, PARTITION) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_a_producer_may_raise_its_own_epoch_and_ask_again_if_the_reply_was_lost():
    scene = Scene()
    _, first = scene.init()

    _, second = scene.init(expected=first)
    _, again = scene.init(expected=first)

    assert second == again == (first.producer_id, first.epoch + 1)


def test_writing_needs_an_open_transaction_with_that_partition():
    scene = Scene()
    _, producer = scene.init()
    write_error = scene.coordinator.write_error

    assert write_error("id", producer, PARTITION) is ErrorCode.INVALID_TXN_STATE
    scene.open(producer)
    assert write_error("id", producer, PARTITION) is ErrorCode.NONE
    assert write_error("id", producer, ("topic", 1)) is ErrorCode.INVALID_TXN_STATE
    scene.coordinator.end("id", producer, commit=True)
    assert write_error("id", producer, PARTITION) is ErrorCode.INVALID_TXN_STATE


def test_a_commit_ends_the_transaction_in_its_partitions_and_groups():
    scene = Scene()
    _, producer = scene.init()
    scene.open(producer)
    scene.coordinator.add_group("id", producer, "group", 0.0)

    assert scene.coordinator.end("id", producer, commit=True) is ErrorCode.NONE

    assert scene.ended == [("topic", 0, 0, True), ("group", True)]


@pytest.mark.parametrize("commit", [True, False])
def test_a_repeated_end_is_answered_alike_and_the_opposite_is_refused(commit):
    scene = Scene()
    _, producer = scene.init()
    scene.open(producer)
    scene.coordinator.end("id", producer, commit)

    assert scene.coordinator.end("id", producer, commit) is ErrorCode.NONE
    assert scene.coordinator.end("id", producer, not commit) is ErrorCode.INVALID_TXN_STATE
    assert len(scene.ended) == 1


def test_a_transaction_open_for_too_long_is_aborted_and_its_owner_fenced():
    scene = Scene()
    _, producer = scene.init()
    scene.open(producer, now=100.0)

    scene.coordinator.expire(109.9)
    assert scene.ended == []
    scene.coordinator.expire(110.0)

    assert scene.ended == [("topic", 0, producer.epoch + 1, False)]
    assert scene.coordinator.end("id", producer, True) is ErrorCode.PRODUCER_FENCED
    assert scene.init(expected=producer)[0] is ErrorCode.PRODUCER_FENCED
    assert scene.init()[0] is ErrorCode.NONE


def test_a_stranger_is_told_that_its_id_is_not_mapped():
    scene = Scene()
    stranger = ProducerIdentity(1, 0)

    assert scene.open(stranger) is ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert scene.coordinator.end("id", stranger, True) is ErrorCode.INVALID_PRODUCER_ID_MAPPING


def test_after_the_last_epoch_comes_a_new_producer_id():
    scene = Scene()
    _, first = scene.init()
    epochs = [first.epoch]

    while (latest := scene.init()[1]).producer_id == first.producer_id:
        epochs.append(latest.epoch)

    assert max(epochs) == 2**15 - 2
    assert latest.epoch == 0


@pytest.mark.parametrize("timeout", [0.0, 901.0])
def test_an_impossible_time_out_is_refused(timeout):
    error, _ = Scene().coordinator.init_producer("id", timeout)

    assert error is ErrorCode.INVALID_TRANSACTION_TIMEOUT
