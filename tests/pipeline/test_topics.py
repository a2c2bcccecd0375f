"""What the topics must be, and what is done about those that are not."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.broker import running_broker
from pipeline.cluster import Cluster
from pipeline.config import Config, ConfigError, load
from pipeline.errors import ExitCode, UserError
from pipeline.subjects import subjects, without_credentials
from pipeline.topics import (
    NO_LIMIT,
    apply,
    differences,
    plan,
    preflight,
    wanted_settings,
)

DEFAULTS = {"retention.ms": "604800000", "max.message.bytes": "1048588"}


@pytest.fixture
def config() -> Iterator[Config]:
    with running_broker({}) as address:
        yield config_of(address)


def config_of(address: str, **overrides: str) -> Config:
    environment = {f"USP__{name.upper()}": value for name, value in overrides.items()}
    return load(None, {"USP__KAFKA__BOOTSTRAP_SERVERS": address, **environment})


def create(config: Config, name: str, partitions: int, **settings: str) -> None:
    admin = AdminClient({"bootstrap.servers": config.kafka.bootstrap_servers})
    dotted = {key.replace("_", "."): value for key, value in settings.items()}
    admin.create_topics([NewTopic(name, partitions, 1, config=dotted)])[name].result()


def actions(config: Config) -> dict[str, str]:
    return {step.topic: step.action for step in plan(config, Cluster(config))}


# -- what is wanted --------------------------------------------------------------------------------


def test_snapshots_are_compacted_and_all_other_outputs_deleted_by_age():
    assert wanted_settings("snapshots", DEFAULTS)["cleanup.policy"] == "compact"
    for name in ("predictions", "telemetry", "events", "dead_letters"):
        assert wanted_settings(name, DEFAULTS)["cleanup.policy"] == "delete"


def test_every_output_takes_the_timestamp_of_its_tick_however_far_away():
    for name in ("predictions", "telemetry", "events", "snapshots", "dead_letters"):
        wanted = wanted_settings(name, DEFAULTS)
        assert wanted["message.timestamp.type"] == "CreateTime"
        assert wanted["message.timestamp.after.max.ms"] == NO_LIMIT


def test_dead_letters_may_be_larger_than_any_tick():
    wanted = wanted_settings("dead_letters", {"max.message.bytes": "5000000"})
    assert int(wanted["max.message.bytes"]) == 5_000_000 + 1_048_576


def test_outputs_of_an_input_that_keeps_for_ever_keep_for_ever_too():
    assert wanted_settings("predictions", {"retention.ms": "-1"})["retention.ms"] == "-1"
    assert "retention.ms" not in wanted_settings("predictions", DEFAULTS)
    assert "retention.ms" not in wanted_settings("snapshots", {"retention.ms": "-1"})


def test_larger_limits_than_wanted_are_left_to_the_operator():
    wanted = {"max.message.bytes": "2000", "segment.bytes": "1"}
    assert differences(wanted, {"max.message.bytes": "3000", "segment.bytes": "9"}) == {}
    assert differences(wanted, {"max.message.bytes": "1000"}) == {"max.message.bytes": "2000"}


def test_settings_that_the_broker_does_not_know_are_not_asked_for():
    assert differences({"message.timestamp.after.max.ms": NO_LIMIT}, {}) == {}


def test_the_input_may_lead_and_the_outputs_are_read_both_ways():
    policies = {subject: policy for subject, _, policy in subjects(Config())}
    assert policies.pop("usp.ticks.v1-value") == "BACKWARD_TRANSITIVE"
    assert set(policies.values()) == {"FULL_TRANSITIVE"}
    assert set(policies) == {
        "usp.predictions.v1-value",
        "usp.telemetry.v1-value",
        "usp.events.v1-value",
    }


# -- plan and apply --------------------------------------------------------------------------------


def test_apply_creates_everything_and_repeating_it_changes_nothing(config):
    steps, ids = apply(config, partitions=3)
    assert {step.action for step in steps} == {"create"}
    assert ids == {}
    assert preflight(config, 5.0).partitions == 3
    assert set(actions(config).values()) == {"keep"}


def test_an_existing_input_decides_the_partitions(config):
    create(config, config.topics.ticks, 7)
    apply(config)
    assert preflight(config, 5.0).partitions == 7


def test_a_dry_run_changes_nothing(config):
    steps, _ = apply(config, dry_run=True)
    assert {step.action for step in steps} == {"create"}
    assert Cluster(config).topics(5.0) == {}


def test_settings_that_can_be_mended_are_mended(config):
    create(config, config.topics.ticks, 2)
    create(config, config.topics.snapshots, 2, cleanup_policy="delete")
    create(config, config.topics.predictions, 2, message_timestamp_type="LogAppendTime")
    assert actions(config)[config.topics.snapshots] == "alter"
    apply(config)
    assert set(actions(config).values()) == {"keep"}
    settings = Cluster(config).settings([config.topics.snapshots, config.topics.predictions])
    assert settings[config.topics.snapshots]["cleanup.policy"] == "compact"
    assert settings[config.topics.predictions]["message.timestamp.type"] == "CreateTime"


def test_a_wrong_partition_count_is_refused_before_anything_is_changed(config):
    create(config, config.topics.ticks, 4)
    create(config, config.topics.events, 2)
    with pytest.raises(UserError) as caught:
        apply(config)
    assert caught.value.exit_code == ExitCode.PREFLIGHT
    assert config.topics.events in str(caught.value)
    assert "delete" in str(caught.value)
    assert len(Cluster(config).topics(5.0)) == 2


def test_a_partition_count_that_the_input_has_not_is_refused(config):
    create(config, config.topics.ticks, 4)
    with pytest.raises(UserError, match="has 4 partitions, not 8"):
        apply(config, partitions=8)


def test_too_many_replicas_are_told_in_one_line(config):
    with pytest.raises(UserError, match="cannot be created") as caught:
        apply(config, replication=3)
    assert caught.value.exit_code == ExitCode.PREFLIGHT


# -- preflight -------------------------------------------------------------------------------------


def test_missing_topics_are_named_with_the_remedy(config):
    create(config, config.topics.ticks, 1)
    with pytest.raises(UserError) as caught:
        preflight(config, 5.0)
    assert caught.value.exit_code == ExitCode.PREFLIGHT
    assert "topics.snapshots" in str(caught.value)
    assert "topics.ticks" not in str(caught.value)
    assert "usp topics apply" in str(caught.value)


def test_an_output_with_another_partition_count_ends_the_preflight(config):
    apply(config, partitions=2)
    other = config_of(config.kafka.bootstrap_servers, topics__telemetry="other")
    create(config, "other", 3)
    with pytest.raises(UserError, match=r"topics\.telemetry = 'other': has 3 partitions"):
        preflight(other, 5.0)


def test_snapshots_that_are_deleted_by_age_end_the_preflight(config):
    apply(config)
    other = config_of(config.kafka.bootstrap_servers, topics__snapshots="other")
    create(config, "other", 4, cleanup_policy="compact,delete")
    with pytest.raises(UserError, match=r"cleanup\.policy is compact,delete"):
        preflight(other, 5.0)


def test_an_unreachable_broker_is_told_within_the_timeout():
    config = config_of("127.0.0.1:1")
    with pytest.raises(UserError) as caught:
        preflight(config, 0.5)
    assert caught.value.exit_code == ExitCode.PREFLIGHT
    assert "127.0.0.1:1" in str(caught.value)


def test_refused_credentials_are_no_unreachable_broker(config):
    refused = config_of(
        config.kafka.bootstrap_servers,
        kafka__extra__security_protocol="SASL_PLAINTEXT",
        kafka__extra__sasl_mechanism="PLAIN",
        kafka__extra__sasl_username="somebody",
        kafka__extra__sasl_password="hunter2",
    )
    with pytest.raises(UserError) as caught:
        preflight(refused, 10.0)
    assert caught.value.exit_code == ExitCode.AUTHENTICATION
    assert "hunter2" not in str(caught.value)


def test_an_unknown_client_setting_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"kafka\.extra"):
        Cluster(config_of("127.0.0.1:1", kafka__extra__no_such_thing="1"))


# -- registry --------------------------------------------------------------------------------------


class _Registry(BaseHTTPRequestHandler):
    """Answers registrations as a registry does, and remembers them on the server."""

    def do_PUT(self):
        self._answer(200, self._body())

    def do_POST(self):
        subject = self.path.split("/")[2]
        known = self.server.subjects
        known.setdefault(subject, len(known) + 1)
        self._body()
        self._answer(200, {"id": known[subject]})

    def _body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, status, body):
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format, *arguments):
        pass


def test_apply_registers_the_schema_of_every_avro_topic(config):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    server.subjects = {}
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        _, ids = apply(config_of(config.kafka.bootstrap_servers, schemas__registry_url=url))
    finally:
        server.shutdown()
        server.server_close()
    assert ids == server.subjects
    assert len(ids) == 4


def test_a_registry_that_does_not_answer_ends_apply_with_its_address(config):
    url = "http://user:hunter2@127.0.0.1:1"
    with pytest.raises(UserError) as caught:
        apply(config_of(config.kafka.bootstrap_servers, schemas__registry_url=url))
    assert caught.value.exit_code == ExitCode.PREFLIGHT
    assert "127.0.0.1:1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_credentials_in_an_address_are_masked():
    url = "https://me:secret@one:8081,http://two"
    assert without_credentials(url) == "https://********@one:8081,http://two"
    assert without_credentials("") == ""
