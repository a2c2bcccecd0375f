"""What a failed call of the producer asks for: one exception per reaction, and who raises which."""

from __future__ import annotations

from confluent_kafka import KafkaError


class Abortable(Exception):
    """The transaction cannot commit: abort, undo, rewind, go on."""


class OutcomeUnknown(Exception):
    """A commit or abort got no answer: make a new producer and look at the offsets."""


class ProducerLost(Exception):
    """The producer's epoch expired without another worker: make a new one, undo, go on."""


class Fenced(Exception):
    """Another worker runs under the same identity: exit."""


class AuthenticationFailed(Exception):
    """The cluster refuses the credentials or the ACLs: exit."""


class SettingsRefused(Exception):
    """librdkafka or the broker refuses a setting, which the message names: exit."""


class Unreachable(Exception):
    """The cluster did not answer in time: keep trying, not ready but alive."""


AUTHENTICATION_CODES = frozenset(
    {
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)

FENCED_CODES = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    }
)

LOST_CODES = frozenset(
    {
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.INVALID_TXN_STATE,
    }
)


def reaction(error: KafkaError) -> Exception:
    """What to do about a failed call."""
    text = f"{error.name()}: {error.str()}"
    code = error.code()
    if code in AUTHENTICATION_CODES:
        return AuthenticationFailed(text)
    if code in FENCED_CODES:
        return Fenced(text)
    if code == KafkaError.INVALID_TRANSACTION_TIMEOUT:
        return SettingsRefused("transaction.timeout.ms is above the broker's own limit")
    if code in LOST_CODES:
        return ProducerLost(text)
    if error.txn_requires_abort() or code == KafkaError.FENCED_INSTANCE_ID:
        # Sending offsets also speaks for the group member, whose name another may have taken: the
        # member itself says what follows from that.
        return Abortable(text)
    # Fatal, or neither retriable nor abortable: nothing can be concluded about the transaction.
    return ProducerLost(text)
