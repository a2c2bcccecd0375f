"""The bundled schema files: complete, documented, and stable on the wire."""

from collections.abc import Iterator
from typing import Any

import fastavro
import pytest

from schemas.codec import (
    RECORD_NAMES,
    DeadLetterReason,
    fingerprint,
    incompatibilities,
    lint,
    load_schema,
    nondeterministic_fields,
    schema_text,
)

# A change of these is a change of the wire format: every producer and consumer has to know.
FINGERPRINTS = {
    "tick": "8bdbb5e28b449d9b",
    "prediction": "d23168bc25f859e1",
    "telemetry": "b812320907ac1531",
    "event": "a6bcf4f48626252c",
}

PREDICTION_FIELDS = """
    asset_id timestamp_ns request_id state_tag source_partition source_offset sequence magnitude
    reference_prediction confidence_lower confidence_upper location scale operating_mode mode
    weights kernel_predictions holder_exponent kurtosis dgm_entropy free_energy sinkhorn_epsilon
    sinkhorn_converged cusum_drift adaptive_threshold distance_to_collapse degraded_inference_mode
    emergency_mode regime_change_detected mode_collapse_warning outlier_rejected signature_depth
    cusum_alarm shift_alarm config_generation config_hash
"""

EVENT_KINDS = """
    OUTLIER_REJECTED REBASED FROZEN_SIGNAL FROZEN_SIGNAL_RECOVERED STALENESS FREQUENCY_WARNING
    OUT_OF_ORDER REGIME_CHANGED MODE_COLLAPSE EMERGENCY NORMAL_OPERATION_RESTORED
    ARCHITECTURE_SCALED LOAD_SHEDDING CONFIG_MUTATED CONFIG_ROLLED_BACK SNAPSHOT_REJECTED WARMED_UP
"""

REASONS = """
    null_value empty bad_magic truncated trailing_bytes unknown_fingerprint unknown_schema_id
    schema_incompatible schema_rejected length_out_of_bounds invalid_utf8 bad_union_index oversize
    key_mismatch timestamp_drift
"""

every_record = pytest.mark.parametrize("name", RECORD_NAMES)


def field_types(name: Any) -> dict[str, Any]:
    return {field["name"]: field["type"] for field in load_schema(name)["fields"]}


def enums(name: Any) -> Iterator[dict[str, Any]]:
    for kind in field_types(name).values():
        if isinstance(kind, dict) and kind["type"] == "enum":
            yield kind


@every_record
def test_fingerprint_is_the_published_one(name):
    assert fingerprint(name).hex() == FINGERPRINTS[name]


@every_record
def test_record_has_its_name_in_the_common_namespace(name):
    schema = load_schema(name)

    assert (schema["name"], schema["namespace"]) == (name.capitalize(), "io.usp")


@every_record
def test_every_field_and_enum_says_what_it_means(name):
    schema = load_schema(name)

    for documented in (schema, *schema["fields"], *enums(name)):
        assert documented["doc"].endswith("."), documented["name"]


@every_record
def test_nullable_fields_begin_with_null_default_to_it_and_say_when(name):
    for field in load_schema(name)["fields"]:
        if isinstance(field["type"], list):
            assert field["type"][0] == "null"
            assert len(field["type"]) == 2
            assert field["default"] is None
            assert "Null: " in field["doc"], field["name"]
        else:
            assert "default" not in field


@every_record
def test_enums_have_a_default_for_symbols_of_later_versions(name):
    for enum in enums(name):
        assert enum["default"] in enum["symbols"]


@every_record
def test_event_times_are_nanoseconds(name):
    kind = field_types(name)["timestamp_ns"]

    if isinstance(kind, list):
        kind = kind[1]
    assert kind == {"type": "long", "logicalType": "timestamp-nanos"}


@every_record
def test_schema_passes_the_lint_and_reads_itself(name):
    schema = lint(schema_text(name))

    assert incompatibilities(schema, schema) == []
    fastavro.parse_schema(load_schema(name))


@every_record
def test_changing_a_loaded_schema_leaves_the_bundled_one(name):
    load_schema(name)["fields"].clear()

    assert load_schema(name)["fields"]


def test_prediction_has_the_agreed_fields_in_order():
    assert list(field_types("prediction")) == PREDICTION_FIELDS.split()


def test_what_can_be_absent_from_a_prediction_is_nullable():
    nullable = {name for name, kind in field_types("prediction").items() if isinstance(kind, list)}

    assert nullable == {
        "request_id",
        "state_tag",
        "dgm_entropy",
        "free_energy",
        "sinkhorn_converged",
        "sinkhorn_epsilon",
        "holder_exponent",
        "kurtosis",
    }


def test_modes_have_the_agreed_symbols():
    kinds = field_types("prediction")

    assert kinds["operating_mode"]["symbols"] == ["inference", "calibration", "diagnostic"]
    assert kinds["mode"]["symbols"] == ["standard", "robust", "emergency"]


def test_events_have_the_agreed_kinds_and_a_stand_in_for_later_ones():
    symbols = field_types("event")["kind"]["symbols"]

    assert symbols == ["UNKNOWN", *EVENT_KINDS.split()]


def test_only_times_taken_by_a_clock_differ_between_runs():
    assert nondeterministic_fields("telemetry") == {"step_latency_seconds", "step_jitter_seconds"}
    for name in ("tick", "prediction", "event"):
        assert nondeterministic_fields(name) == frozenset()


def test_nondeterministic_fields_say_so_in_words():
    for field in load_schema("telemetry")["fields"]:
        if field["name"] in nondeterministic_fields("telemetry"):
            assert "Not deterministic" in field["doc"]


def test_an_unknown_record_is_named_in_the_error():
    with pytest.raises(KeyError, match="snapshot"):
        schema_text("snapshot")


def test_dead_letter_reasons_are_the_agreed_ones_and_explained():
    assert [str(reason) for reason in DeadLetterReason] == REASONS.split()
    assert all(reason.meaning for reason in DeadLetterReason)
    assert DeadLetterReason("oversize") is DeadLetterReason.OVERSIZE
