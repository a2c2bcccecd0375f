"""Settings that cannot go together are refused by name, with the remedy."""

from __future__ import annotations

import pytest

from pipeline.config import Config, ConfigError, load
from pipeline.rules import FIXED, OWN_FIELDS, contradictions


def loaded(**settings: str) -> Config:
    return load(None, {f"USP__{name}": value for name, value in settings.items()})


def test_the_defaults_contradict_nothing():
    assert list(contradictions(Config())) == []


@pytest.mark.parametrize(
    ("interval", "timeout"), [("10000", "10000"), ("60000", "10000"), ("5001", "10000")]
)
def test_a_commit_interval_that_a_transaction_does_not_live_through_is_refused(interval, timeout):
    with pytest.raises(ConfigError) as caught:
        loaded(
            WORKER__COMMIT_INTERVAL_MS=interval,
            KAFKA__TRANSACTION_TIMEOUT_MS=timeout,
        )

    assert "worker.commit_interval_ms" in str(caught.value)
    assert f"kafka.transaction_timeout_ms to {2 * int(interval)} or more" in str(caught.value)


def test_a_commit_interval_of_half_the_transaction_timeout_is_accepted():
    config = loaded(WORKER__COMMIT_INTERVAL_MS="5000", KAFKA__TRANSACTION_TIMEOUT_MS="10000")

    assert config.worker.commit_interval_ms == 5000


def test_a_linger_beyond_the_commit_interval_is_refused():
    with pytest.raises(ConfigError, match=r"worker\.linger_ms.*worker\.commit_interval_ms"):
        loaded(WORKER__LINGER_MS="200", WORKER__COMMIT_INTERVAL_MS="100")


def test_a_past_before_the_earliest_tick_is_refused():
    with pytest.raises(ConfigError, match=r"history\.topic_ticks.*kafka\.start = \"latest\""):
        loaded(HISTORY__TOPIC_TICKS="100")

    assert loaded(HISTORY__TOPIC_TICKS="100", KAFKA__START="latest").history.topic_ticks == 100


@pytest.mark.parametrize("name", OWN_FIELDS)
def test_a_client_setting_with_a_field_of_its_own_is_refused_rather_than_ignored(name):
    with pytest.raises(ConfigError) as caught:
        loaded(**{f"KAFKA__EXTRA__{name.replace('.', '_').upper()}": "x"})

    assert OWN_FIELDS[name] in str(caught.value)


@pytest.mark.parametrize("name", FIXED)
def test_a_client_setting_on_which_exactly_once_rests_is_not_free(name):
    with pytest.raises(ConfigError, match="is not free"):
        loaded(**{f"KAFKA__EXTRA__{name.replace('.', '_').upper()}": "x"})


def test_other_client_settings_pass():
    config = loaded(KAFKA__EXTRA__FETCH_WAIT_MAX_MS="7", KAFKA__EXTRA__SASL_MECHANISM="PLAIN")

    assert config.kafka.extra == {"fetch_wait_max_ms": "7", "sasl_mechanism": "PLAIN"}


@pytest.mark.parametrize("name", ["", ".", "a/b", "x" * 250, "ü"])
def test_a_topic_that_no_broker_would_create_is_refused(name):
    with pytest.raises(ConfigError, match=r"topics\.events"):
        loaded(TOPICS__EVENTS=name)


@pytest.mark.parametrize("url", ["registry:8081", "ftp://x", "http://a,b", "http://"])
def test_a_registry_address_without_its_scheme_is_refused(url):
    with pytest.raises(ConfigError, match=r"schemas\.registry_url"):
        loaded(SCHEMAS__REGISTRY_URL=url)


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("FUSION__LEARNING_RATE_MINIMUM", "0.3", "fusion.learning_rate_maximum (0.2)"),
        ("MARKOV__ENTROPY_GAMMA_MIN", "0.9", "markov.entropy_gamma_default (0.8)"),
        ("MARKOV__ENTROPY_GAMMA_MAX", "0.7", "markov.entropy_gamma_max (0.7)"),
        ("MARKOV__ENTROPY_VOLATILITY_HIGH_THRESHOLD", "0.01", "high_threshold (0.01)"),
    ],
)
def test_limits_that_cross_are_refused(name, value, other):
    with pytest.raises(ConfigError) as caught:
        loaded(**{name: value})

    assert other in str(caught.value)
