"""Requests about the cluster and its topics: versions, metadata, creation, configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .groups import LARGEST_METADATA_LENGTH
from .node import CLUSTER_ID, NODE_ID, Node
from .protocol import APIS, UNKNOWN_OPERATIONS, Api, ErrorCode, Request, Response
from .topics import DEFAULT_CONFIG, LARGEST_PARTITION_COUNT, Topic, is_valid_setting
from .transactions import LARGEST_TIMEOUT_SECONDS

_TOPIC_RESOURCE, _BROKER_RESOURCE = 2, 4
_SET_ON_TOPIC, _STATIC, _DEFAULT = 1, 4, 5  # sources of a setting
_SET, _DELETE = 0, 1  # incremental operations; appending to lists is not supported


def api_versions(node: Node, request: Request) -> Response:
    return describe_versions(request.version, ErrorCode.NONE)


def describe_versions(version: int, error: ErrorCode) -> Response:
    """What is supported; a client that asked in a newer version gets this as version 0."""
    response = Response(flexible=version >= 3).int16(error)

    def describe(api: Api) -> None:
        response.int16(api.key).int16(api.lowest).int16(api.highest).tags()

    response.array(APIS.values(), describe)
    if version >= 1:
        response.int32(0)
    return response.tags()


def metadata(node: Node, request: Request) -> Response:
    names = request.nullable_array(lambda: request.structure(request.string))
    may_create = request.boolean() if request.version >= 4 else True
    if names is None or (request.version == 0 and not names):
        wanted = [topic.name for topic in node.topics]
    else:
        wanted = [name for (name,) in names]
    response = request.response()
    if request.version >= 3:
        response.int32(0)
    response.array([NODE_ID], lambda _: _describe_node(node, request, response))
    if request.version >= 2:
        response.string(CLUSTER_ID)
    if request.version >= 1:
        response.int32(NODE_ID)  # controller
    response.array(wanted, lambda name: _describe_topic(node, request, response, name, may_create))
    if request.version >= 8:
        response.int32(UNKNOWN_OPERATIONS)
    return response.tags()


def _describe_node(node: Node, request: Request, response: Response) -> None:
    response.int32(NODE_ID).string(node.host).int32(node.port)
    if request.version >= 1:
        response.string(None)  # rack
    response.tags()


def _describe_topic(
    node: Node, request: Request, response: Response, name: str, may_create: bool
) -> None:
    error, topic = ErrorCode.NONE, node.topics.get(name)
    if topic is None and may_create and node.auto_create_partitions:
        error = node.topics.create(name, node.auto_create_partitions)
        topic = node.topics.get(name)
    elif topic is None:
        error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    response.int16(error).string(name)
    if request.version >= 1:
        response.boolean(False)  # internal

    def describe_partition(partition: int) -> None:
        response.int16(ErrorCode.NONE).int32(partition).int32(NODE_ID)
        if request.version >= 7:
            response.int32(0)  # leader epoch
        response.array([NODE_ID], response.int32).array([NODE_ID], response.int32)
        if request.version >= 5:
            response.array([], response.int32)  # offline replicas
        response.tags()

    response.array(range(len(topic.partitions)) if topic else [], describe_partition)
    if request.version >= 8:
        response.int32(UNKNOWN_OPERATIONS)
    response.tags()


def create_topics(node: Node, request: Request) -> Response:
    def wanted() -> tuple[str, int, int, dict[str, str | None]]:
        name, partition_count, replication = request.string(), request.int32(), request.int16()
        assigned = request.array(lambda: (request.int32(), request.array(request.int32)))
        config = dict(request.array(lambda: (request.string(), request.nullable_string())))
        return name, len(assigned) or partition_count, replication, config

    topics = request.array(wanted)
    request.int32()  # time-out
    validate_only = request.version >= 1 and request.boolean()
    response = request.response()
    if request.version >= 2:
        response.int32(0)

    def create(topic: tuple[str, int, int, dict[str, str | None]]) -> None:
        name, partition_count, replication, config = topic
        if partition_count == -1:
            partition_count = node.auto_create_partitions or 1
        error = ErrorCode.INVALID_REPLICATION_FACTOR
        if replication in (-1, 1):
            error = node.topics.create(name, partition_count, config, validate_only)
        response.string(name).int16(error)
        if request.version >= 1:
            response.string(None)

    return response.array(topics, create)


def delete_topics(node: Node, request: Request) -> Response:
    names = request.array(request.string)
    response = request.response()
    if request.version >= 1:
        response.int32(0)

    def delete(name: str) -> None:
        error = node.topics.delete(name)
        for group in node.groups.values():
            group.forget_topic(name)
        response.string(name).int16(error).tags()

    return response.array(names, delete).tags()


def create_partitions(node: Node, request: Request) -> Response:
    """Add empty partitions at the end; a topic cannot shrink."""

    def assignments() -> object:
        return request.nullable_array(
            lambda: request.structure(lambda: request.array(request.int32))
        )

    topics = request.array(lambda: request.structure(request.string, request.int32, assignments))
    request.int32()  # time-out
    validate_only = request.boolean()
    response = request.response().int32(0)

    def grow(wanted: tuple) -> None:
        name, count, _ = wanted
        topic, error = node.topics.get(name), ErrorCode.NONE
        if topic is None:
            error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif not len(topic.partitions) < count <= LARGEST_PARTITION_COUNT:
            error = ErrorCode.INVALID_PARTITIONS
        elif not validate_only:
            topic.grow(count)
        response.string(name).int16(error).string(None).tags()

    return response.array(topics, grow).tags()


def describe_configs(node: Node, request: Request) -> Response:
    def resource() -> tuple[int, str, list[str] | None]:
        return request.int8(), request.string(), request.nullable_array(request.string)

    resources = request.array(resource)
    response = request.response().int32(0)

    def describe(wanted: tuple[int, str, list[str] | None]) -> None:
        kind, name, names = wanted
        error, settings = _settings(node, kind, name)
        response.int16(error).string(None).int8(kind).string(name)
        chosen = [item for item in settings.items() if not names or item[0] in names]
        response.array(chosen, describe_setting)

    def describe_setting(item: tuple[str, tuple[str, int]]) -> None:
        name, (value, source) = item
        response.string(name).string(value).boolean(False)
        if request.version == 0:
            response.boolean(source == _DEFAULT)
        else:
            response.int8(source)
        response.boolean(False)  # sensitive
        if request.version >= 1:
            response.array([], response.string)  # synonyms

    return response.array(resources, describe)


def _settings(node: Node, kind: int, name: str) -> tuple[ErrorCode, Mapping[str, tuple[str, int]]]:
    """Each setting of a resource with its source."""
    if kind == _BROKER_RESOURCE:
        return ErrorCode.NONE, {
            key: (value, _STATIC) for key, value in _broker_settings(node).items()
        }
    if kind != _TOPIC_RESOURCE:
        return ErrorCode.INVALID_REQUEST, {}
    topic = node.topics.get(name)
    if topic is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, {}
    return ErrorCode.NONE, {
        key: (topic.setting(key), _SET_ON_TOPIC if key in topic.config else _DEFAULT)
        for key in DEFAULT_CONFIG
    }


def _broker_settings(node: Node) -> dict[str, str]:
    return {
        "auto.create.topics.enable": str(bool(node.auto_create_partitions)).lower(),
        "message.max.bytes": DEFAULT_CONFIG["max.message.bytes"],
        "num.partitions": str(node.auto_create_partitions or 1),
        "offset.metadata.max.bytes": str(LARGEST_METADATA_LENGTH),
        "transaction.max.timeout.ms": str(int(LARGEST_TIMEOUT_SECONDS * 1000)),
    }


Change = tuple[str, int, str | None]


def alter_configs(node: Node, request: Request) -> Response:
    """Replace all settings of a topic by those given."""

    def replaced(topic: Topic, changes: list[Change]) -> dict[str, str]:
        return {name: value for name, _, value in changes if value is not None}

    return _alter(
        node,
        request,
        lambda: request.structure(request.string, lambda: _SET, request.nullable_string),
        replaced,
    )


def incremental_alter_configs(node: Node, request: Request) -> Response:
    """Change only the settings given."""

    def changed(topic: Topic, changes: list[Change]) -> dict[str, str]:
        config = dict(topic.config)
        for name, operation, value in changes:
            if operation == _SET and value is not None:
                config[name] = value
            else:
                config.pop(name, None)
        return config

    return _alter(
        node,
        request,
        lambda: request.structure(request.string, request.int8, request.nullable_string),
        changed,
    )


def _alter(
    node: Node,
    request: Request,
    read_change: Callable[[], tuple],
    new_config: Callable[[Topic, list[Change]], dict[str, str]],
) -> Response:
    resources = request.array(
        lambda: request.structure(request.int8, request.string, lambda: request.array(read_change))
    )
    validate_only = request.boolean()
    response = request.response().int32(0)

    def alter(resource: tuple) -> None:
        kind, name, changes = resource
        topic = node.topics.get(name) if kind == _TOPIC_RESOURCE else None
        error = _change_error(kind, topic, changes)
        if topic is not None and not error and not validate_only:
            topic.config = new_config(topic, changes)
        response.int16(error).string(None).int8(kind).string(name).tags()

    return response.array(resources, alter).tags()


def _change_error(kind: int, topic: Topic | None, changes: list[Change]) -> ErrorCode:
    if kind != _TOPIC_RESOURCE:
        return ErrorCode.INVALID_REQUEST
    if topic is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    for name, operation, value in changes:
        if operation not in (_SET, _DELETE):
            return ErrorCode.INVALID_REQUEST
        if not is_valid_setting(name, value if operation == _SET else None):
            return ErrorCode.INVALID_CONFIG
    return ErrorCode.NONE
