"""The log of one partition, without a server."""

from __future__ import annotations

from broker_batches import append
from hypothesis import given
from hypothesis import strategies as st

from pipeline.broker.log import PartitionLog
from pipeline.broker.protocol import ErrorCode
from pipeline.broker.records import read_header, records

EVERYTHING = 1 << 30


def transact(log, producer, *keys, commit, epoch=0, sequence=0):
    append(log, *keys, producer=producer, epoch=epoch, sequence=sequence, transactional=True)
    log.end_transaction(producer, epoch, commit, now_ms=5_000)


def visible(log, read_committed=True):
    """Offsets and keys of the data records that a client would hand to its application."""
    found, aborted = log.read(log.log_start_offset, EVERYTHING, read_committed, True)
    skipping, seen = set(), []
    starts = sorted((one.first_offset, one.producer_id) for one in aborted)
    for data in found:
        header = read_header(data)
        while starts and starts[0][0] <= header.base_offset + header.last_offset_delta:
            skipping.add(starts.pop(0)[1])
        if header.is_control:
            skipping.discard(header.producer_id)
        elif not (header.is_transactional and header.producer_id in skipping):
            for record in records(data):
                seen.append((header.base_offset + record.offset_delta, record.key))
    return seen


def test_offsets_count_records():
    log = PartitionLog()

    first, second = append(log, b"a", b"b"), append(log, b"c")

    assert (first.base_offset, second.base_offset, log.high_watermark) == (0, 2, 3)


def test_a_repeated_batch_is_answered_with_its_first_offset():
    log = PartitionLog()
    append(log, b"other")
    sent = {"producer": 7, "epoch": 0, "sequence": 0}

    first, again = append(log, b"a", **sent), append(log, b"a", **sent)

    assert first == again
    assert log.high_watermark == 2


def test_a_gap_in_the_sequence_is_refused():
    log = PartitionLog()
    append(log, b"a", producer=7, epoch=0, sequence=0)

    outcome = append(log, b"c", producer=7, epoch=0, sequence=2)

    assert outcome.error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_the_sequence_wraps_around():
    log = PartitionLog()
    append(log, b"a", b"b", producer=7, epoch=0, sequence=2**31 - 2)

    assert append(log, b"c", producer=7, epoch=0, sequence=0).error is ErrorCode.NONE


def test_a_new_epoch_begins_at_sequence_zero_and_fences_the_old_one():
    log = PartitionLog()
    append(log, b"a", producer=7, epoch=3, sequence=5)

    assert (
        append(log, b"b", producer=7, epoch=4, sequence=6).error
        is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    )
    assert append(log, b"b", producer=7, epoch=4, sequence=0).error is ErrorCode.NONE
    assert (
        append(log, b"c", producer=7, epoch=3, sequence=6).error is ErrorCode.INVALID_PRODUCER_EPOCH
    )


def test_a_marker_of_a_newer_epoch_fences_what_was_on_its_way():
    log = PartitionLog()
    append(log, b"a", producer=7, epoch=0, sequence=0, transactional=True)

    log.end_transaction(7, 1, commit=False, now_ms=5_000)

    late = append(log, b"b", producer=7, epoch=0, sequence=1, transactional=True)
    assert late.error is ErrorCode.INVALID_PRODUCER_EPOCH
    assert log.last_stable_offset == log.high_watermark


def test_the_last_stable_offset_is_where_the_oldest_open_transaction_begins():
    log = PartitionLog()
    append(log, b"plain")
    append(log, b"a", producer=7, epoch=0, sequence=0, transactional=True)
    append(log, b"b", producer=8, epoch=0, sequence=0, transactional=True)

    assert log.last_stable_offset == 1
    log.end_transaction(7, 0, commit=True, now_ms=5_000)
    assert log.last_stable_offset == 2
    log.end_transaction(8, 0, commit=False, now_ms=5_000)
    assert log.last_stable_offset == log.high_watermark == 5


def test_a_fetch_in_the_middle_of_an_aborted_transaction_is_told_of_it():
    log = PartitionLog()
    for sequence in range(3):
        append(log, b"a", producer=7, epoch=0, sequence=sequence, transactional=True)
    log.end_transaction(7, 0, commit=False, now_ms=5_000)

    aborted = log.read(2, EVERYTHING, read_committed=True, at_least_one=True).aborted

    assert [(one.producer_id, one.first_offset) for one in aborted] == [(7, 0)]


def test_a_small_limit_still_returns_one_batch():
    log = PartitionLog()
    append(log, b"a", padding=500)
    append(log, b"b", padding=500)

    assert len(log.read(0, 10, read_committed=False, at_least_one=True).batches) == 1
    assert log.read(0, 10, read_committed=False, at_least_one=False).batches == []


def test_compaction_leaves_what_is_above_the_last_stable_offset():
    log = PartitionLog()
    append(log, b"k")
    append(log, b"k")
    append(log, b"k", producer=7, epoch=0, sequence=0, transactional=True)
    append(log, b"k")

    log.compact()

    # The open record at 2 may be aborted, so it and what follows supersede nothing.
    assert visible(log) == [(1, b"k")]
    assert [offset for offset, _ in visible(log, read_committed=False)] == [1, 2, 3]


def test_compaction_keeps_records_without_a_key():
    log = PartitionLog()
    for key in (None, b"k", None, b"k"):
        append(log, key)

    log.compact()

    assert visible(log) == [(0, None), (2, None), (3, b"k")]


def test_retention_stops_at_the_last_stable_offset():
    log = PartitionLog()
    append(log, b"a")
    append(log, b"b", producer=7, epoch=0, sequence=0, transactional=True)

    log.expire(retention_ms=1, retention_bytes=-1, now_ms=1_000_000)

    assert (log.log_start_offset, log.high_watermark) == (1, 2)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("plain"), st.integers(0, 3)),
        st.tuples(st.just("send"), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.just("end"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("compact")),
    ),
    max_size=60,
)


@given(steps)
def test_compaction_never_loses_the_newest_committed_value_of_a_key(actions):
    log, untouched = PartitionLog(), PartitionLog()
    sequences = dict.fromkeys(range(3), 0)
    for action in actions:
        match action:
            case ("plain", key):
                append(log, b"%d" % key)
                append(untouched, b"%d" % key)
            case ("send", key, producer):
                for target in (log, untouched):
                    append(
                        target,
                        b"%d" % key,
                        producer=producer,
                        epoch=0,
                        sequence=sequences[producer],
                        transactional=True,
                    )
                sequences[producer] += 1
            case ("end", producer, commit):
                log.end_transaction(producer, 0, commit, now_ms=5_000)
                untouched.end_transaction(producer, 0, commit, now_ms=5_000)
            case _:
                log.compact()

    newest, expected = ({key: offset for offset, key in visible(one)} for one in (log, untouched))
    assert newest == expected
    assert set(visible(log)) <= set(visible(untouched))
    assert visible(log, read_committed=False)[-1:] == visible(untouched, False)[-1:] or (
        log.last_stable_offset == log.high_watermark
    )
    assert log.last_stable_offset == untouched.last_stable_offset
    # A reader anywhere below the last stable offset finds something to move on with.
    for offset in range(log.last_stable_offset):
        assert log.read(offset, EVERYTHING, True, True).batches
