"""Which errors of a consumer end the worker, and with which remedy; all others heal.

An error reaches us as the error of a message, as an exception of a call, or through the
callback of the client; whatever the way, it is judged here.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from consumers.events import ConsumerFailed

AUTHENTICATION_CODES = frozenset(
    {
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)

_FENCED = (
    "another worker joined the group with this instance id; give each its own kafka.instance_id, "
    "or let the other one go on"
)
_REMEDIES: dict[int, tuple[str, str]] = {
    KafkaError.FENCED_INSTANCE_ID: ("fenced", _FENCED),
    KafkaError.UNRELEASED_INSTANCE_ID: ("fenced", _FENCED),
    KafkaError.INVALID_SESSION_TIMEOUT: (
        "settings",
        "kafka.session_timeout_ms: the broker accepts only values between its "
        "group.min.session.timeout.ms (6000 by default) and group.max.session.timeout.ms",
    ),
    KafkaError.UNSUPPORTED_VERSION: (
        "settings",
        'kafka.group_protocol: the broker does not know this protocol; "consumer" needs 4.0 or '
        'newer, write "classic"',
    ),
    KafkaError.UNSUPPORTED_ASSIGNOR: (
        "settings",
        "kafka.assignment: the broker does not know this assignor; leave it out",
    ),
}
"""Kind and message by code; a fatal error of the group names one of them in its text only."""

_TEXTS = {KafkaError(code).str(): code for code in (*_REMEDIES, *AUTHENTICATION_CODES)}


def failure(error: KafkaError, where: str = "") -> ConsumerFailed | None:
    """What an error ends the worker with; None where it heals, or comes back as one that ends.

    `where` is topic and partition, for errors of one partition.
    """
    code = error.code()
    is_fatal = error.fatal() or code == KafkaError._FATAL
    if code == KafkaError._FATAL:
        code = next((each for text, each in _TEXTS.items() if text in error.str()), code)
    if code in AUTHENTICATION_CODES:
        return ConsumerFailed("authentication", f"{error.str()}; check kafka.extra and the ACLs")
    if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        return ConsumerFailed(
            "offset_out_of_range",
            f"{where}: the position is outside of the log ({error.str()}); raise the topic's "
            "retention, or accept the gap by resetting the group's offsets",
        )
    if code in _REMEDIES and (is_fatal or code != KafkaError.UNSUPPORTED_VERSION):
        return ConsumerFailed(*_REMEDIES[code])
    if is_fatal:
        return ConsumerFailed("fatal", error.str())
    return None


def raised(error: KafkaException) -> ConsumerFailed:
    """What a call's exception ends the worker with, where the call cannot be left undone."""
    kafka_error = error.args[0]
    return failure(kafka_error) or ConsumerFailed("fatal", kafka_error.str())
