"""The whole configuration: one frozen typed tree, from the file and the environment.

`config.toml` holds what differs from the defaults; `USP__SECTION__KEY` overrides it. Every
section refuses unknown keys. The predictor's own sections are those of `predictor.config`.
"""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomlkit

from pipeline.rules import contradictions
from predictor.config import (
    Fusion,
    Hilbert,
    Ingestion,
    Interval,
    Levy,
    Markov,
    Monitoring,
    PredictorConfig,
    Signature,
)
from predictor.settings import (
    Field,
    Section,
    declared_fields,
    locked,
    operational,
    structural,
    value_at,
)

ENVIRONMENT_PREFIX = "USP__"


class ConfigError(Exception):
    """The configuration cannot be used; the message names the field and the remedy."""


class Kafka(Section, frozen=True):
    """The cluster and this worker's place in it."""

    bootstrap_servers: Annotated[
        str, operational("addresses of the cluster, host:port, comma separated", min_length=1)
    ] = "127.0.0.1:9092"
    application_id: Annotated[
        str,
        operational(
            "name of the application: the consumer group, and part of every transactional id",
            min_length=1,
            max_length=200,
        ),
    ] = "usp"
    instance_id: Annotated[
        str, operational("name of this worker, stable over restarts; empty: the host name")
    ] = ""
    static_membership: Annotated[
        bool, operational("keep this worker's partitions through a restart (classic protocol)")
    ] = True
    start: Annotated[
        Literal["earliest", "latest"],
        operational("where a partition starts that has neither offset nor snapshots"),
    ] = "earliest"
    group_protocol: Annotated[
        Literal["classic", "consumer"], operational("consumer is KIP-848: brokers 4.0 and newer")
    ] = "classic"
    assignment: Annotated[
        Literal["cooperative-sticky", "range"], operational("assignor of the classic protocol")
    ] = "cooperative-sticky"
    session_timeout_ms: Annotated[
        int,
        operational(
            "silence after which the group takes this worker's partitions",
            "ms",
            ge=1000,
            le=1_800_000,
        ),
    ] = 6000
    transaction_timeout_ms: Annotated[
        int,
        operational(
            "time after which the broker aborts an abandoned transaction", "ms", ge=1000, le=900_000
        ),
    ] = 10_000
    extra: Annotated[
        dict[str, str],
        operational("further librdkafka settings, dots written as such or as underscores"),
    ] = msgspec.field(default_factory=dict)


class Topics(Section, frozen=True):
    """Names of the topics."""

    ticks: Annotated[str, operational("input")] = "usp.ticks.v1"
    predictions: Annotated[str, operational("forecasts")] = "usp.predictions.v1"
    telemetry: Annotated[str, operational("measurements of the numerics")] = "usp.telemetry.v1"
    events: Annotated[str, operational("alerts and lifecycle")] = "usp.events.v1"
    snapshots: Annotated[str, operational("states, compacted")] = "usp.snapshots.v1"
    dead_letters: Annotated[str, operational("what could not be decoded")] = "usp.ticks.v1.dlq"


class Worker(Section, frozen=True):
    """The loop."""

    commit_interval_ms: Annotated[
        int, operational("longest time a forecast waits for its commit", "ms", ge=1, le=60_000)
    ] = 100
    max_batch: Annotated[
        int, operational("most ticks of one micro-batch", "ticks", ge=1, le=100_000)
    ] = 4096
    linger_ms: Annotated[
        int, operational("time to wait for more ticks after the first", "ms", ge=0, le=1000)
    ] = 5
    startup_timeout_seconds: Annotated[
        float, operational("wait for broker and registry before giving up", "s", gt=0, le=3600)
    ] = 30.0
    shutdown_timeout_seconds: Annotated[
        float,
        operational("time for the last commit and snapshots after SIGTERM", "s", gt=0, le=600),
    ] = 20.0


class Device(Section, frozen=True):
    """Where the step runs."""

    tile: Annotated[
        int,
        structural(
            "lanes of the compiled step; part of the definition of the bits",
            "assets",
            ge=1,
            le=4096,
        ),
    ] = 32
    platform: Annotated[
        Literal["auto", "cpu", "cuda"], operational("device kind; auto takes a GPU where there is")
    ] = "auto"
    threads: Annotated[
        int,
        operational(
            "processors that a step on the CPU may use; a worker for each processor does more",
            "processors",
            ge=1,
            le=1024,
        ),
    ] = 1
    slab_assets: Annotated[
        int, operational("assets whose states share one allocation", "assets", ge=8, le=1_000_000)
    ] = 4096
    compilation_cache: Annotated[
        str, operational("folder of compiled programs; empty: the user's cache folder")
    ] = ""


class Snapshot(Section, frozen=True):
    """When an asset's state is written to the snapshots topic."""

    every_ticks: Annotated[
        int, operational("answered ticks of an asset between two snapshots", "ticks", ge=1)
    ] = 64
    max_replay_ticks: Annotated[
        int, operational("most offsets a recovery replays per partition", "offsets", ge=1)
    ] = 100_000
    max_age_seconds: Annotated[
        float, operational("longest time a tick stays uncovered by a snapshot", "s", gt=0)
    ] = 3600.0


class History(Section, frozen=True):
    """What an asset may learn from before its first forecast, where nothing is committed yet."""

    file: Annotated[
        str,
        operational(
            "CSV, Parquet or JSON Lines of past ticks, older than the first in the topic; empty: "
            "none"
        ),
    ] = ""
    file_ticks: Annotated[
        int,
        operational("most ticks per asset that are taken from it, the last ones", "ticks", ge=1),
    ] = 2000
    topic_ticks: Annotated[
        int,
        operational(
            "with kafka.start = latest: offsets before the start of a partition that are learned "
            "from, and not answered",
            "offsets",
            ge=0,
        ),
    ] = 0


class Telemetry(Section, frozen=True):
    """The telemetry topic."""

    every_ticks: Annotated[
        int, locked("answered ticks of an asset between two telemetry records", "ticks", ge=1)
    ] = 16


class Schemas(Section, frozen=True):
    """Wire format."""

    registry_url: Annotated[
        str, operational("schema registry; empty: single-object encoding, no registry")
    ] = ""
    max_tick_bytes: Annotated[
        int, operational("largest value that is decoded", "bytes", ge=64, le=100_000_000)
    ] = 65_536


class Config(Section, frozen=True):
    """Everything."""

    seed: Annotated[int, locked("seed of diagnostics that sample", ge=0)] = 42
    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    worker: Worker = Worker()
    device: Device = Device()
    snapshot: Snapshot = Snapshot()
    history: History = History()
    telemetry: Telemetry = Telemetry()
    schemas: Schemas = Schemas()
    ingestion: Ingestion = Ingestion()
    monitoring: Monitoring = Monitoring()
    fusion: Fusion = Fusion()
    interval: Interval = Interval()
    hilbert: Hilbert = Hilbert()
    markov: Markov = Markov()
    levy: Levy = Levy()
    signature: Signature = Signature()

    @property
    def predictor(self) -> PredictorConfig:
        """The part that can change a forecast."""
        return PredictorConfig(
            tile=self.device.tile,
            seed=self.seed,
            ingestion=self.ingestion,
            monitoring=self.monitoring,
            fusion=self.fusion,
            interval=self.interval,
            hilbert=self.hilbert,
            markov=self.markov,
            levy=self.levy,
            signature=self.signature,
        )

    @property
    def instance(self) -> str:
        """This worker's name."""
        return self.kafka.instance_id or socket.gethostname()

    @property
    def transactional_id(self) -> str:
        """The producer's identity over restarts; a second one under it fences the first."""
        return f"{self.kafka.application_id}.{self.instance}"


_FIELDS = {field.path: field for field in declared_fields(Config)}


def fields() -> Iterator[Field]:
    """Every field of the configuration, in the order of the file."""
    return iter(_FIELDS.values())


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """Read the file, if any, apply the environment, validate.

    **Failure:** `ConfigError` for a file that is missing or no TOML, an unknown key (with the
    nearest known one), a wrong type or a value out of range (with the range).
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; pass --config FILE or create it") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"{path}: {error}") from None
    origin = str(path) if path is not None else "defaults"
    _check_keys(tree, (), origin)
    for name, raw in sorted((environment if environment is not None else os.environ).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            _apply_override(tree, name, raw)
    return _validated(tree)


def _check_keys(tree: Mapping[str, Any], prefix: tuple[str, ...], origin: str) -> None:
    for key, value in tree.items():
        path = (*prefix, key)
        if path in _FIELDS:
            continue
        is_section = any(known[: len(path)] == path for known in _FIELDS)
        if is_section and isinstance(value, dict):
            _check_keys(value, path, origin)
        elif is_section:
            raise ConfigError(f"[{key}]: is a section, not a value; write a [{key}] table")
        else:
            raise ConfigError(f"{_dotted(path)}: unknown key in {origin}{_suggestion(path)}")


def _suggestion(path: tuple[str, ...]) -> str:
    depth = len(path)
    siblings = sorted(
        {
            known[depth - 1]
            for known in _FIELDS
            if len(known) >= depth and known[: depth - 1] == path[:-1]
        }
    )
    close = difflib.get_close_matches(path[-1], siblings, n=1)
    if close:
        return f"; did you mean {_dotted((*path[:-1], close[0]))}?"
    elsewhere = [known for known in _FIELDS if known[-1] == path[-1]]
    if elsewhere:
        return f"; it belongs in {_dotted(elsewhere[0])}"
    return f"; known here: {', '.join(siblings)}"


def _apply_override(tree: dict[str, Any], name: str, raw: str) -> None:
    """Put one `USP__SECTION__KEY` into the tree; `_FILE` at the end names a file to read."""
    text = name[len(ENVIRONMENT_PREFIX) :]
    path = tuple(part.lower() for part in text.split("__"))
    if path not in _FIELDS and path[-1].endswith("_file"):
        trimmed = (*path[:-1], path[-1].removesuffix("_file"))
        if trimmed in _FIELDS or trimmed[:2] == ("kafka", "extra"):
            try:
                raw = Path(raw).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"{name}: cannot read {raw}: {error.strerror}") from None
            path = trimmed
    node = tree
    if path[:2] == ("kafka", "extra") and len(path) == 3:
        for part in path[:2]:
            node = node.setdefault(part, {})
        node[path[2]] = raw
        return
    if path not in _FIELDS:
        raise ConfigError(f"{name}: no such setting{_suggestion(path)}")
    for part in path[:-1]:
        node = node.setdefault(part, {})
    node[path[-1]] = _parse(_FIELDS[path], name, raw)


def _parse(field: Field, name: str, raw: str) -> Any:
    try:
        return msgspec.convert(raw, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}; write {_admissible(field)}") from None


def _admissible(field: Field) -> str:
    """What may be written into a field, for a person."""
    if typing.get_origin(field.type) is Literal:
        return " or ".join(repr(value) for value in typing.get_args(field.type))
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    kind = kinds.get(field.type, "a table of texts")
    unit = f" ({field.unit})" if field.unit and field.type in (int, float) else ""
    return f"{kind}{unit}, for example {field.default!r} (the default)"


def _validated(tree: dict[str, Any]) -> Config:
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$.")
        path = where.rstrip("`")
        field = _FIELDS.get(tuple(path.split(".")))
        remedy = f"; write {_admissible(field)}" if field is not None else ""
        raise ConfigError(f"{path or 'configuration'}: {message}{remedy}") from None
    for contradiction in contradictions(config):
        raise ConfigError(contradiction)
    return config


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)


SECRET_WORDS = ("password", "secret", "jaas", "key", "token")


def is_secret(name: str) -> bool:
    """Whether a librdkafka setting of this name must not be shown."""
    return any(word in name.lower() for word in SECRET_WORDS)


def as_toml(config: Config, with_comments: bool = True) -> str:
    """The effective configuration as a file that loads to the same tree; secrets masked."""
    document = tomlkit.document()
    tables: dict[str, Any] = {}
    for field in fields():
        value = value_at(config, field.path)
        if field.path == ("kafka", "extra"):
            value = {k: "********" if is_secret(k) else v for k, v in value.items()}
        target: Any = document
        if len(field.path) == 2:
            section = field.path[0]
            if section not in tables:
                tables[section] = tomlkit.table()
                document.add(section, tables[section])
            target = tables[section]
        item = tomlkit.item(value)
        if with_comments and not isinstance(value, dict):
            unit = f" [{field.unit}]" if field.unit else ""
            item.comment(f"{field.description}{unit} ({field.kind.value})")
        target.add(field.path[-1], item)
    return tomlkit.dumps(document)


def as_json_tree(config: Config) -> dict[str, Any]:
    """The effective configuration as plain values; secrets masked."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    extra = tree["kafka"]["extra"]
    tree["kafka"]["extra"] = {k: "********" if is_secret(k) else v for k, v in extra.items()}
    return tree
