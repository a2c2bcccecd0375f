"""Ticks from bytes: every good one exactly, every bad one with its reason, whatever the batch."""

import io
import itertools
import time

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import (
    GOOD,
    MAX_BYTES,
    MAX_STRING_BYTES,
    PLAIN,
    POISON,
    SINGLE,
    START_NS,
    R,
    bits,
    examples,
    expected_row,
    rows,
    ticks,
    value_of,
)

import schemas.decode
from schemas.catalogue import parsed_schema
from schemas.codec import DecodedTicks, Framing, TickDecoder, schema_text


@pytest.fixture
def decoder() -> TickDecoder:
    return new_decoder()


def new_decoder() -> TickDecoder:
    return TickDecoder(max_bytes=MAX_BYTES, max_string_bytes=MAX_STRING_BYTES)


def without_keys(decoder: TickDecoder, values: list[bytes | None]) -> DecodedTicks:
    return decoder.decode(values, [None] * len(values))


def one_by_one(values: list[bytes | None]) -> dict:
    """The outcome without the batch decoder, each value in a batch of its own."""
    decoder = new_decoder()
    outcome = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemas.decode, "read_batch", lambda *_, **__: None)
        for index, value in enumerate(values):
            (outcome[index],) = rows(without_keys(decoder, [value])).values()
    return outcome


def reason_of(decoder: TickDecoder, value: bytes | None) -> str:
    decoded = without_keys(decoder, [value])
    assert len(decoded) == 0
    return decoded.rejected[0].reason


class TestGoodTicks:
    @examples
    @given(st.lists(ticks, max_size=20))
    def test_come_back_bit_for_bit(self, batch):
        values = [value_of(tick) for tick in batch]
        keys = [tick["asset_id"].encode() for tick in batch]

        decoded = TickDecoder().decode(values, keys)

        assert rows(decoded) == {i: expected_row(tick) for i, tick in enumerate(batch)}

    @pytest.mark.parametrize(
        "pattern",
        [
            0x7FF8000000000000,  # NaN
            0x7FF0000000000001,  # signalling NaN
            0xFFF8DEADBEEF0001,  # NaN with a payload and a sign
            0x7FF0000000000000,  # infinity
            0x8000000000000000,  # -0.0
            0x0000000000000001,  # least denormal
            0x7FEFFFFFFFFFFFFF,  # greatest finite number
        ],
    )
    @pytest.mark.parametrize("optional", [pytest.param(True, id="also optional fields"), False])
    def test_keep_the_bits_of_unusual_numbers(self, decoder, pattern, optional):
        number = pattern.to_bytes(8, "little")
        proxy = b"\x02" + number if optional else b"\x00"
        value = GOOD[:14] + number + GOOD[22:31] + proxy + b"\x00" * 3

        fast = without_keys(decoder, [value, value])

        assert fast.magnitude.tobytes() == number * 2
        assert fast.dispersion_proxy.tobytes() == (number if optional else bits(None)) * 2
        assert rows(fast) == one_by_one([value, value])

    def test_may_come_in_either_framing_within_a_batch(self, decoder):
        decoder.add_writer(42, schema_text("tick"))
        confluent = value_of(PLAIN, Framing.confluent(42))

        decoded = without_keys(decoder, [value_of(PLAIN), confluent, value_of(PLAIN)])

        assert decoded.asset_id == ["BTC-USD"] * 3
        assert rows(decoded)[0] == rows(decoded)[1]

    def test_may_encode_numbers_longer_than_needed(self, decoder):
        overlong = GOOD[:10] + b"\x86\x80\x00" + GOOD[11:]

        assert rows(without_keys(decoder, [overlong, GOOD])) == one_by_one([GOOD, GOOD])

    def test_of_the_longest_string_are_accepted(self, decoder):
        tick = PLAIN | {"asset_id": "x" * MAX_STRING_BYTES, "request_id": "é" * 150}

        assert without_keys(decoder, [value_of(tick)]).request_id == ["é" * 150]

    def test_an_empty_batch_is_an_empty_outcome(self, decoder):
        decoded = decoder.decode([], [])

        assert len(decoded) == 0
        assert decoded.magnitude.dtype == decoded.reference.dtype == np.float64
        assert decoded.index.dtype == decoded.timestamp_ns.dtype == np.int64

    def test_columns_have_their_types_on_every_path(self, decoder):
        for values in ([GOOD], [GOOD, None], [None]):
            decoded = without_keys(decoder, values)
            assert decoded.magnitude.dtype == decoded.dispersion_proxy.dtype == np.float64
            assert decoded.index.dtype == decoded.timestamp_ns.dtype == np.int64

    def test_lengths_of_values_and_keys_must_agree(self, decoder):
        with pytest.raises(ValueError, match="1 values, but 0 keys"):
            decoder.decode([GOOD], [])


class TestPoison:
    @pytest.mark.parametrize("name", POISON)
    def test_alone_gets_its_reason(self, decoder, name):
        value, reason = POISON[name]

        assert reason_of(decoder, value) == reason

    @pytest.mark.parametrize("name", POISON)
    def test_among_good_ticks_changes_none_of_them(self, decoder, name):
        value, reason = POISON[name]
        values = [GOOD, value_of(PLAIN), value, GOOD]

        decoded = without_keys(decoder, values)

        assert [(one.index, one.reason) for one in decoded.rejected] == [(2, reason)]
        assert decoded.asset_id == ["abc", "BTC-USD", "abc"]
        assert decoded.index.tolist() == [0, 1, 3]

    def test_of_every_kind_in_one_batch(self, decoder):
        values = [part for value, _ in POISON.values() for part in (GOOD, value)]

        decoded = without_keys(decoder, values)

        assert [one.reason for one in decoded.rejected] == [reason for _, reason in POISON.values()]
        assert decoded.index.tolist() == list(range(0, len(values), 2))

    def test_details_never_quote_the_payload(self, decoder):
        secret = GOOD[:10] + b"\x0csecret" + GOOD[14:] + b"\x00"

        assert "secret" not in without_keys(decoder, [secret]).rejected[0].detail

    def test_of_two_halves_of_a_character_is_not_joined(self, decoder):
        first, second = (GOOD[:10] + b"\x02" + half + GOOD[14:] for half in (b"\xc3", b"\xa9"))

        decoded = without_keys(decoder, [first, second])

        assert [one.reason for one in decoded.rejected] == [R.INVALID_UTF8] * 2

    def test_that_balances_a_shorter_neighbour_is_found(self, decoder):
        # One value with a trailing byte beside others: sums of sizes must not hide it.
        decoded = without_keys(decoder, [GOOD + b"\x00", GOOD, GOOD])

        assert [(one.index, one.reason) for one in decoded.rejected] == [(0, R.TRAILING_BYTES)]

    def test_is_refused_in_time_linear_in_its_size(self):
        decoder = TickDecoder(max_string_bytes=2**62)
        hostile = [GOOD[:10] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 100] * 1000

        started = time.perf_counter()
        decoded = without_keys(decoder, hostile)

        assert {one.reason for one in decoded.rejected} == {R.TRUNCATED}
        assert time.perf_counter() - started < 30


class TestKeys:
    def test_must_name_the_asset_where_they_are_set(self, decoder):
        keys = [b"abc", None, b"ABC", b"", b"abc\x00"]

        decoded = decoder.decode([GOOD] * 5, keys)

        assert decoded.index.tolist() == [0, 1]
        assert [(one.index, one.reason) for one in decoded.rejected] == [
            (index, R.KEY_MISMATCH) for index in (2, 3, 4)
        ]

    def test_are_compared_as_bytes(self, decoder):
        value = value_of(PLAIN | {"asset_id": "é"})

        decoded = decoder.decode([value, value], [b"\xc3\xa9", b"\xe9"])

        assert decoded.index.tolist() == [0]

    def test_do_not_matter_where_the_value_is_bad(self, decoder):
        decoded = decoder.decode([GOOD + b"\x00", GOOD], [b"other", b"other"])

        assert [one.reason for one in decoded.rejected] == [R.TRAILING_BYTES, R.KEY_MISMATCH]


class TestBothWays:
    @examples
    @given(st.data())
    def test_no_mutation_escapes_and_the_ways_agree(self, data):
        value = bytearray(value_of(data.draw(ticks)))
        for _ in range(data.draw(st.integers(1, 3))):
            position = data.draw(st.integers(0, len(value) - 1))
            value[position] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(value)))
        values = [bytes(value), bytes(value[:cut]), bytes(value) + b"\x00"]

        together = rows(without_keys(new_decoder(), values))

        assert together == one_by_one(values)
        assert together == {
            index: row
            for index, value in enumerate(values)
            for row in rows(without_keys(new_decoder(), [value])).values()
        }

    def test_every_flipped_bit_and_every_cut_has_one_fate(self):
        whole = value_of(PLAIN | {"state_tag": "x", "reference": 2.0, "request_id": "é"})
        flipped = [
            whole[:byte] + bytes([whole[byte] ^ (1 << bit)]) + whole[byte + 1 :]
            for byte in range(len(whole))
            for bit in range(8)
        ]
        values: list[bytes | None] = [*flipped, *(whole[:end] for end in range(len(whole)))]

        assert rows(without_keys(new_decoder(), values)) == one_by_one(values)

    @examples
    @given(st.binary(max_size=60))
    def test_random_payloads_have_one_fate(self, payload):
        values = [GOOD[:10] + payload, b"\xc3" + payload, b"\x00" + payload, payload]

        assert rows(without_keys(new_decoder(), values)) == one_by_one(values)

    @examples
    @given(st.binary(min_size=14, max_size=60))
    def test_what_is_accepted_reads_the_same_in_fastavro(self, payload):
        decoded = without_keys(new_decoder(), [GOOD[:14] + payload])

        if len(decoded):
            buffer = io.BytesIO(GOOD[10:14] + payload)
            tick = fastavro.schemaless_reader(buffer, parsed_schema("tick"), None)
            assert rows(decoded)[0] == expected_row(tick)
            assert not buffer.read()

    @examples
    @given(st.data())
    def test_the_cut_of_batches_does_not_matter(self, data):
        corpus = [value for value, _ in POISON.values()]
        one = st.one_of(ticks.map(value_of), st.sampled_from(corpus))
        values = data.draw(st.lists(one, min_size=1, max_size=30))
        keys = data.draw(
            st.lists(
                st.sampled_from([None, None, b"abc"]), min_size=len(values), max_size=len(values)
            )
        )
        cuts = sorted(data.draw(st.sets(st.integers(0, len(values)))) | {0, len(values)})

        whole = rows(new_decoder().decode(values, keys))

        pieces = {}
        for start, end in itertools.pairwise(cuts):
            part = rows(new_decoder().decode(values[start:end], keys[start:end]))
            pieces |= {start + index: row for index, row in part.items()}
        assert pieces == whole

    @pytest.mark.parametrize("failure", ["panic", "error"])
    def test_a_batch_decoder_that_fails_is_replaced(self, decoder, monkeypatch, failure):
        class PanicException(BaseException):
            """What a Rust extension raises when it panics."""

        def fail(*_):
            raise PanicException if failure == "panic" else RuntimeError

        expected = rows(without_keys(decoder, [GOOD, GOOD]))
        monkeypatch.setattr("schemas.ticks.pyruhvro.deserialize_array", fail)

        assert rows(without_keys(decoder, [GOOD, GOOD])) == expected

    def test_an_interrupt_is_not_taken_for_a_failure(self, decoder, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("schemas.ticks.pyruhvro.deserialize_array", interrupt)

        with pytest.raises(KeyboardInterrupt):
            without_keys(decoder, [GOOD])

    def test_good_ticks_take_the_fast_way(self, decoder, monkeypatch):
        def refuse(*_):
            raise AssertionError("the slow way was taken")

        monkeypatch.setattr(TickDecoder, "_sort_out", refuse)
        plain = [value_of(PLAIN | {"timestamp_ns": START_NS + i}) for i in range(100)]
        mixed = [value_of(PLAIN | {"request_id": "x" * i, "timestamp_ns": -i}) for i in range(100)]

        assert len(without_keys(decoder, plain)) == len(without_keys(decoder, mixed)) == 100


class TestSchemaIds:
    def test_are_unresolved_until_declared(self, decoder):
        value = value_of(PLAIN, Framing.confluent(7))

        decoded = without_keys(decoder, [GOOD, value])

        assert [(one.index, one.schema_id) for one in decoded.unresolved] == [(1, 7)]
        assert decoded.asset_id == ["abc"]

    def test_declared_unknown_are_rejected(self, decoder):
        decoder.add_unknown(7)

        assert reason_of(decoder, value_of(PLAIN, Framing.confluent(7))) == R.UNKNOWN_SCHEMA_ID

    def test_declared_unknown_can_be_declared_known_later(self, decoder):
        decoder.add_unknown(7)
        decoder.add_writer(7, schema_text("tick"))

        assert len(without_keys(decoder, [value_of(PLAIN, Framing.confluent(7))])) == 1

    def test_declared_unknown_can_be_forgotten(self, decoder):
        decoder.add_unknown(7)
        decoder.forget_unknown()

        decoded = without_keys(decoder, [value_of(PLAIN, Framing.confluent(7))])

        assert [one.schema_id for one in decoded.unresolved] == [7]

    def test_without_a_registry_are_unknown_at_once(self):
        decoder = TickDecoder(registry=False)

        assert reason_of(decoder, value_of(PLAIN, Framing.confluent(7))) == R.UNKNOWN_SCHEMA_ID

    def test_of_bad_payloads_are_told_apart_only_when_known(self, decoder):
        broken = value_of(PLAIN, Framing.confluent(7))[:-1]

        assert without_keys(decoder, [broken]).unresolved
        decoder.add_writer(7, schema_text("tick"))
        assert reason_of(decoder, broken) == R.TRUNCATED

    def test_of_a_registry_full_of_unknowns_take_bounded_memory(self, decoder):
        for schema_id in range(70_000):
            decoder.add_unknown(schema_id)

        newest = value_of(PLAIN, Framing.confluent(69_999))
        oldest = value_of(PLAIN, Framing.confluent(0))
        assert reason_of(decoder, newest) == R.UNKNOWN_SCHEMA_ID
        assert without_keys(decoder, [oldest]).unresolved

    def test_with_the_bundled_schema_take_the_fast_way(self, decoder, monkeypatch):
        decoder.add_writer(7, schema_text("tick"))
        monkeypatch.setattr(TickDecoder, "_sort_out", None)

        assert len(without_keys(decoder, [value_of(PLAIN, Framing.confluent(7))] * 3)) == 3

    def test_out_of_range_are_refused_when_encoding(self):
        with pytest.raises(ValueError, match="schema id"):
            Framing.confluent(2**31)


def test_the_single_object_header_is_magic_and_fingerprint_in_wire_order():
    assert value_of(PLAIN, SINGLE)[:10].hex() == "c301" + "8bdbb5e28b449d9b"
