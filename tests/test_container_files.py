"""The container files keep what running, scaling and locking down a worker relies on.

They are read as text, since the project needs no YAML parser otherwise; the files' own shape (two
blanks per level, one key per line) is part of what is checked.
"""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
COMPOSE = (CHECKOUT / "docker-compose.kafka.yml").read_text()
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()


def block(text: str, path: str) -> str:
    """Return the lines under a key of the compose file, `path` being names joined by slashes."""
    for depth, name in enumerate(path.split("/")):
        indent = "  " * depth
        match = re.search(
            rf"^{indent}{re.escape(name)}:[^\n]*\n((?:(?:{indent}  [^\n]*)?\n)*)",
            text,
            re.MULTILINE,
        )
        assert match, f"no {name} in the compose file"
        text = match.group(1)
    return text


def instructions(name: str) -> list[str]:
    """Return the arguments of every such instruction of the Dockerfile."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", joined, re.MULTILINE)


def test_compose_is_indented_by_two_blanks_and_has_no_tabs():
    lines = [line for line in COMPOSE.splitlines() if line.strip()]

    assert "\t" not in COMPOSE
    assert all((len(line) - len(line.lstrip(" "))) % 2 == 0 for line in lines)


def test_the_broker_is_the_version_that_the_tests_run():
    version = re.search(r'KAFKA_VERSION = "(.+)"', (CHECKOUT / "scripts" / "kafka").read_text())

    assert version
    assert f"image: apache/kafka:{version.group(1)}\n" in block(COMPOSE, "services/kafka")


def test_workers_can_be_scaled():
    worker = block(COMPOSE, "services/worker")

    # Two containers cannot share a name, a host name or a port of the host; and the instance id
    # must stay the container's own host name.
    for fixed in ("container_name", "hostname", "ports:", "INSTANCE_ID"):
        assert fixed not in worker
        assert fixed not in block(COMPOSE, "x-usp")


def test_workers_reach_the_broker_by_its_service_name():
    shared = block(COMPOSE, "x-usp/environment")

    assert "USP__KAFKA__BOOTSTRAP_SERVERS: kafka:9092\n" in shared
    assert "PLAINTEXT://kafka:9092" in block(COMPOSE, "services/kafka/environment")
    for service in ("topics", "worker", "demo-ticks"):
        assert "<<: *usp\n" in block(COMPOSE, f"services/{service}")


@pytest.mark.parametrize(
    ("service", "command"),
    [
        ("topics", '["topics", "apply"]'),
        ("worker", '["run"]'),
        ("demo-ticks", '["produce"'),
    ],
)
def test_services_run_the_command_line(service, command):
    assert f"command: {command}" in block(COMPOSE, f"services/{service}")


def test_workers_wait_for_the_broker_and_the_topics():
    dependencies = block(COMPOSE, "services/worker/depends_on")

    assert re.findall(r"(\w+):\n +condition: (\w+)", dependencies) == [
        ("kafka", "service_healthy"),
        ("topics", "service_completed_successfully"),
    ]


def test_demo_ticks_are_produced_only_when_asked_for():
    assert 'profiles: ["demo-ticks"]' in block(COMPOSE, "services/demo-ticks")
    assert "profiles" not in block(COMPOSE, "services/worker")


def test_a_stopping_worker_is_given_more_time_than_it_takes():
    grace = re.search(r"stop_grace_period: (\d+)s", block(COMPOSE, "services/worker"))

    assert grace
    assert int(grace.group(1)) > 25


def test_published_ports_are_on_the_loopback_interface():
    for port in re.findall(r"^ +- (\S+:\d+)$", COMPOSE, re.MULTILINE):
        assert port.startswith("127.0.0.1:")


def test_containers_are_locked_down():
    shared = block(COMPOSE, "x-usp")

    assert "read_only: true\n" in shared
    assert "- /tmp\n" in block(COMPOSE, "x-usp/tmpfs")
    assert "- ALL\n" in block(COMPOSE, "x-usp/cap_drop")
    assert "- no-new-privileges:true\n" in shared


def test_the_image_runs_the_worker_as_nobody_in_particular():
    assert instructions("ENTRYPOINT") == ['["usp"]']
    assert instructions("CMD") == ['["run"]']
    user = instructions("USER")[-1].partition(":")[0]
    assert user not in {"root", "0"}


def test_the_image_writes_only_below_tmp():
    environment = " ".join(instructions("ENV"))

    for variable in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        assert re.search(rf"\b{variable}=/tmp\b", environment)


def test_every_download_into_the_image_is_pinned_by_hash():
    installs = re.findall(r"pip install ([^&\n]*)", DOCKERFILE)

    assert installs
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-index" in arguments


def test_the_final_stage_has_no_development_dependencies():
    final = DOCKERFILE.rpartition("\nFROM ")[2]

    assert "AS build" in DOCKERFILE
    assert "requirements-dev" not in final
    assert "COPY --from=build /opt/usp /opt/usp" in final


def test_the_build_context_holds_what_the_image_copies():
    ignored = (CHECKOUT / ".dockerignore").read_text().splitlines()
    copied = {
        source
        for arguments in instructions("COPY")
        if not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }

    assert "*" in ignored
    assert {f"!{source}" for source in copied} <= set(ignored)


def test_every_package_is_copied_into_the_image():
    project = (CHECKOUT / "pyproject.toml").read_text()
    listed = re.search(r"^packages = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)

    assert listed
    packages = {name.partition(".")[0] for name in re.findall(r'"(.+?)"', listed.group(1))}
    assert packages <= {arguments.split()[0] for arguments in instructions("COPY")}
