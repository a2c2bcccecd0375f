"""Brokers and the schema registry for integration tests.

A test that takes `broker` runs twice, against the embedded broker and against a real Apache Kafka;
`real_broker` and `embedded_broker` ask for one of them. Where Java or Maven is missing the real
services are skipped with the reason, or fail with it when `USP_REQUIRE_KAFKA=1`.
"""

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_services import (
    Broker,
    EmbeddedBroker,
    RealBroker,
    ServiceFailed,
    ServiceMissing,
    session_daemon,
)
from worker_rig import Rig

RUN = uuid.uuid4().hex[:8]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a real service after the fixtures they take."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if "real_broker" in fixtures or parameters.get("broker") == "real":
            item.add_marker("real_kafka")
        if "registry_url" in fixtures:
            item.add_marker("real_registry")


@pytest.fixture(scope="session", params=["embedded", "real"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """A running Kafka broker: once the embedded one, once a real Apache Kafka."""
    return request.getfixturevalue(f"{request.param}_broker")


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The project's own broker in a process of its own."""
    with EmbeddedBroker.running(tmp_path_factory.mktemp("embedded-broker")) as broker:
        yield broker


@pytest.fixture(scope="session")
def real_broker(service_report) -> Iterator[Broker]:
    """A real Apache Kafka. A test that kills it starts it again before it ends."""
    with (
        noting_absence(service_report, "real_kafka", "real Apache Kafka"),
        session_daemon("kafka") as (script, address),
    ):
        broker = RealBroker(script, address)
        service_report.started("real_kafka", broker.version)
        yield broker


@pytest.fixture(scope="session")
def registry_url(service_report) -> Iterator[str]:
    """The client URL of a real schema registry. Subjects of all tests of the run share it."""
    with (
        noting_absence(service_report, "real_registry", "real schema registry"),
        session_daemon("registry") as (_script, address),
    ):
        service_report.started("real_registry")
        yield address


@contextlib.contextmanager
def noting_absence(service_report, marker: str, title: str) -> Iterator[None]:
    """Report a service that does not start; without Java or Maven its tests are skipped.

    They fail instead where the run is meant to be complete, and when it does not start for any
    other reason.
    """
    try:
        yield
    except ServiceFailed as failure:
        service_report.missing(marker, str(failure))
        pytest.fail(f"{title}: {failure}", pytrace=False)
    except ServiceMissing as absence:
        service_report.missing(marker, str(absence))
        reason = f"{title} not run: {absence}"
        if os.environ.get("USP_REQUIRE_KAFKA") == "1":
            pytest.fail(f"{reason} (USP_REQUIRE_KAFKA=1)", pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Make names of topics, groups and transactional ids that no other test or run uses.

    Within one test the same prefix gives the same name.
    """
    test = re.sub(r"\W+", "-", request.node.name)[:60].strip("-")
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]

    def name(prefix: str) -> str:
        return f"{prefix}.{test}.{digest}.{RUN}"

    return name


@pytest.fixture
def make_rig(
    broker: Broker, unique_name: Callable[[str], str], tmp_path: Path
) -> Iterator[Callable[..., Rig]]:
    """Make rigs of one application on this broker, with settings; all are closed at the end."""
    made: list[Rig] = []

    def make(**settings: str) -> Rig:
        rig = Rig(broker.bootstrap_servers, unique_name("worker"), tmp_path, **settings)
        made.append(rig)
        return rig

    yield make
    for rig in made:
        rig.close()
