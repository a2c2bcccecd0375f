"""Administration of a Kafka cluster: questions and changes, with one-line errors."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from consumers.settings import common, dotted
from pipeline.config import Config, ConfigError
from pipeline.errors import ExitCode, UserError
from pipeline.rules import OWN_FIELDS

REQUEST_SECONDS = 10.0
SETTLE_SECONDS = 10.0
"""Time that a cluster gets to elect the leaders of a topic that it has just created."""

REFUSED_CREDENTIALS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


class Cluster:
    """One administration client.

    **Failure:** `ConfigError` naming a setting of `kafka.extra` that librdkafka refuses. Methods
    raise `UserError`: exit 4 where the cluster does not answer or refuses a change, exit 6
    where it refuses the credentials.
    """

    def __init__(self, config: Config) -> None:
        self._address = config.kafka.bootstrap_servers
        # A refused log-in reaches the client's callback only; calls just run into their timeout.
        refusal = self._refusal = deque[KafkaError](maxlen=1)

        # It does not refer to this object: a cycle would leave the end of the client to the
        # garbage collector, which may run in a thread of librdkafka, where it must not end.
        def note(error: KafkaError) -> None:
            if error.code() in REFUSED_CREDENTIALS:
                refusal.append(error)

        settings = common(self._address, config.instance, config.kafka.extra)
        self._admin = make_client(config, AdminClient, {**settings, "error_cb": note})

    def topics(self, timeout_seconds: float) -> dict[str, int]:
        """Partition count by topic; waits up to the timeout for the cluster to answer."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            left = deadline - time.monotonic()
            try:
                found = self._admin.list_topics(timeout=min(max(left, 0.1), 1.0))
                return {
                    name: len(topic.partitions)
                    for name, topic in found.topics.items()
                    if topic.error is None
                }
            except KafkaException as error:
                self._admin.poll(0)
                if error.args[0].code() in REFUSED_CREDENTIALS:
                    raise _refused(error.args[0]) from None
                if self._refusal:
                    raise _refused(self._refusal[0]) from None
                if time.monotonic() >= deadline:
                    raise unreachable(self._address, timeout_seconds) from None
                time.sleep(0.05)

    def brokers(self) -> int:
        """How many brokers there are."""
        try:
            return len(self._admin.list_topics(timeout=REQUEST_SECONDS).brokers)
        except KafkaException:
            raise unreachable(self._address, REQUEST_SECONDS) from None

    def settings(self, topics: Iterable[str]) -> dict[str, dict[str, str]]:
        """Settings of existing topics, defaults included, by topic and name."""
        resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
        if not resources:
            return {}
        futures = self._admin.describe_configs(resources, request_timeout=REQUEST_SECONDS)
        found = {}
        for resource, future in futures.items():
            try:
                entries = future.result()
            except KafkaException as error:
                raise _failed(f"settings of topic {resource.name} cannot be read", error) from None
            found[resource.name] = {name: entry.value or "" for name, entry in entries.items()}
        return found

    def create(
        self, topic: str, partitions: int, replication: int, settings: Mapping[str, str]
    ) -> None:
        """Create a topic and wait for its leaders; does nothing where it exists.

        Settings that this broker does not know are left out: older ones have fewer.
        """
        kept = dict(settings)
        while True:
            wanted = NewTopic(topic, partitions, replication, config=kept)
            future = self._admin.create_topics([wanted], request_timeout=REQUEST_SECONDS)[topic]
            try:
                future.result()
                break
            except KafkaException as error:
                kafka_error = error.args[0]
                if kafka_error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    break
                unknown = [name for name in kept if name in kafka_error.str()]
                if kafka_error.code() == KafkaError.INVALID_CONFIG and unknown:
                    del kept[unknown[0]]
                    continue
                raise _failed(f"topic {topic} cannot be created", error) from None
        self._await_leaders(topic, partitions)

    def _await_leaders(self, topic: str, partitions: int) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            try:
                found = self._admin.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic]
            except KafkaException:
                raise unreachable(self._address, REQUEST_SECONDS) from None
            if sum(each.leader >= 0 for each in found.partitions.values()) >= partitions:
                return
            time.sleep(0.02)

    def alter(self, topic: str, settings: Mapping[str, str]) -> None:
        """Set these settings of a topic and leave the others as they are."""
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        futures = self._admin.incremental_alter_configs([resource], request_timeout=REQUEST_SECONDS)
        try:
            futures[resource].result()
        except KafkaException as error:
            raise _failed(f"settings of topic {topic} cannot be changed", error) from None


def make_client(config: Config, kind: Any, settings: Mapping[str, Any]) -> Any:
    """A confluent-kafka client; `ConfigError` where librdkafka refuses one of its settings."""
    try:
        return kind(dict(settings))
    except (KafkaException, ValueError, TypeError) as error:
        reason = error.args[0]
        text = reason.str() if isinstance(reason, KafkaError) else str(error)
        raise refused_setting(config, text) from None


def refused_setting(config: Config, text: str) -> ConfigError:
    """What to say where librdkafka or a broker refuses a setting that its text names."""
    if text.startswith("kafka."):
        return ConfigError(text)
    for key in config.kafka.extra:
        if dotted(key) in text:
            return ConfigError(f"kafka.extra.{key}: {text}; correct or remove it")
    for name, field in OWN_FIELDS.items():
        if name in text:
            return ConfigError(f"{field}: {text}; write another value")
    return ConfigError(f"kafka.extra: {text}; correct or remove the setting")


def unreachable(address: str, seconds: float) -> UserError:
    """No broker answered in time."""
    return UserError(
        f"kafka.bootstrap_servers: no broker answers at {address} within {seconds:g} s; start "
        "Kafka (scripts/kafka start, usp broker) or correct the address",
        ExitCode.PREFLIGHT,
    )


def _refused(error: KafkaError) -> UserError:
    return UserError(
        f"kafka.extra: the cluster refuses this client ({error.str()}); check the credentials "
        "and ACLs",
        ExitCode.AUTHENTICATION,
    )


def _failed(what: str, error: KafkaException) -> UserError:
    reason = error.args[0]
    if reason.code() in REFUSED_CREDENTIALS:
        return UserError(
            f"{what}: {reason.str()}; check the credentials and ACLs", ExitCode.AUTHENTICATION
        )
    return UserError(f"{what}: {reason.str()}", ExitCode.PREFLIGHT)
