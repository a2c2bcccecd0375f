"""The configuration tree: declarations, hashes, and what a change costs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor import PredictorConfig
from predictor.config import (
    Fusion,
    Ingestion,
    Monitoring,
    canonical_json,
    config_hash,
    structure,
    tunables,
)
from predictor.settings import Kind, Section, declared_fields, replace_at, value_at

FIELDS = tuple(declared_fields(PredictorConfig))
each_field = pytest.mark.parametrize("field", FIELDS, ids=lambda field: ".".join(field.path))
each_search = pytest.mark.parametrize(
    "field", [f for f in FIELDS if f.search], ids=lambda field: ".".join(field.path)
)


def changed(field):
    """Another legal-looking value of the field."""
    if isinstance(field.default, str):
        return next(a for a in field.type.__args__ if a != field.default)
    return field.default + 1 if isinstance(field.default, int) else field.default * 1.01


def accepts(field, value) -> bool:
    plain = msgspec.to_builtins(PredictorConfig())
    node = plain
    for name in field.path[:-1]:
        node = node[name]
    node[field.path[-1]] = value
    try:
        msgspec.convert(plain, PredictorConfig)
    except msgspec.ValidationError:
        return False
    return True


@each_field
def test_field_declares_what_it_is(field):
    assert field.description
    assert field.kind in set(Kind)
    assert accepts(field, field.default)


@each_field
def test_number_has_a_range(field):
    if field.type in (int, float):
        assert not accepts(field, -1e300 if field.type is float else -(10**30))


@each_field
def test_default_round_trips_through_plain_values(field):
    assert value_at(PredictorConfig(), field.path) == field.default


@each_search
def test_search_range_is_inside_of_what_validation_accepts(field):
    low, high = field.search

    assert field.kind is Kind.TUNABLE
    assert low < high
    assert accepts(field, low)
    assert accepts(field, high)


@each_field
def test_hash_sees_every_field(field):
    other = replace_at(PredictorConfig(), field.path, changed(field))

    assert config_hash(other) != config_hash(PredictorConfig())


@each_field
def test_structure_ignores_tunables_and_nothing_else(field):
    other = structure(replace_at(PredictorConfig(), field.path, changed(field)))

    assert (other == structure(PredictorConfig())) == (field.kind is Kind.TUNABLE)


def test_every_tunable_is_traced_as_a_double():
    values = tunables(PredictorConfig())

    assert set(values) == {".".join(f.path) for f in FIELDS if f.kind is Kind.TUNABLE}
    assert {str(value.dtype) for value in values.values()} == {"float64"}


def test_hash_does_not_depend_on_the_order_of_keys():
    plain = msgspec.to_builtins(PredictorConfig())
    backwards = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(plain.items())
    }

    assert config_hash(msgspec.convert(backwards, PredictorConfig)) == config_hash(
        PredictorConfig()
    )


def test_canonical_json_is_sorted_and_dense():
    text = canonical_json(PredictorConfig())

    assert text.startswith('{"fusion":{"entropy_reset":"soft"')
    assert " " not in text


@given(st.floats(0.01, 0.3))
def test_hash_is_a_function_of_the_values(alpha):
    one = PredictorConfig(monitoring=Monitoring(volatility_alpha=alpha))
    two = PredictorConfig(monitoring=Monitoring(volatility_alpha=alpha))

    assert config_hash(one) == config_hash(two)


def test_unknown_key_is_refused():
    with pytest.raises(msgspec.ValidationError, match="cusum"):
        msgspec.convert({"monitoring": {"cusum": 1.0}}, PredictorConfig)


def test_tree_is_immutable_and_hashable():
    config = PredictorConfig()

    with pytest.raises(AttributeError):
        config.tile = 64
    assert hash(config) == hash(PredictorConfig())
    assert config != PredictorConfig(fusion=Fusion(entropy_reset="uniform"))
    assert config != PredictorConfig(ingestion=Ingestion(time_gates="off"))


def test_field_without_a_declaration_is_an_error():
    class Bare(Section, frozen=True):
        value: int = 1

    with pytest.raises(TypeError, match="value"):
        tuple(declared_fields(Bare))
