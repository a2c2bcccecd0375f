"""Brokers and the schema registry as processes that a test session starts and ends.

Each session gets daemons of its own, in a directory of its own, so that a test may kill its broker
without harming whatever else runs in this checkout, and two sessions can run side by side. With
`USP_TEST_KAFKA_STATE` (or `USP_TEST_REGISTRY_STATE`) naming the state directory of `scripts/kafka`
(or `scripts/registry`), for example `.cache/kafka`, the session uses the daemon of that directory
instead; one that ran before stays up.
"""

import atexit
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Self

from confluent_kafka.admin import AdminClient, NewTopic

CHECKOUT = Path(__file__).resolve().parents[2]
SESSIONS = CHECKOUT / ".cache" / "tests"

# The exit code of scripts/kafka and scripts/registry when Java or Maven is missing.
PREFLIGHT_FAILED = 4


class ServiceMissing(Exception):
    """A real service cannot run on this machine; the message says why and names the remedy."""


class ServiceFailed(Exception):
    """A service should run but does not."""


class DaemonScript:
    """One of `scripts/kafka` and `scripts/registry`, bound to a state directory."""

    def __init__(self, name: str, state: Path) -> None:
        self.name = name
        self.state = state

    def run(self, action: str, *options: str) -> str:
        """Run one command and return the last line it prints.

        Raises:
            ServiceMissing: Java or Maven is missing.
            ServiceFailed: anything else went wrong.
        """
        answer = self._call(action, *options)
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        reason = lines[-1].removeprefix(f"scripts/{self.name}: ")
        if answer.returncode == PREFLIGHT_FAILED:
            raise ServiceMissing(reason)
        if answer.returncode:
            raise ServiceFailed(f"scripts/{self.name} {action}: {reason}")
        return (answer.stdout.splitlines() or [""])[-1]

    def status(self) -> dict[str, str]:
        """Return what `status` says about the running daemon; empty when none runs."""
        answer = self._call("status")
        lines = answer.stdout.splitlines() if answer.returncode == 0 else []
        return dict(line.split(": ", 1) for line in lines)

    def _call(self, action: str, *options: str) -> subprocess.CompletedProcess[str]:
        script = str(CHECKOUT / "scripts" / self.name)
        return subprocess.run(
            [sys.executable, script, action, "--state", str(self.state), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )


@contextlib.contextmanager
def session_daemon(name: str) -> Iterator[tuple[DaemonScript, str]]:
    """Run `scripts/NAME` for this session; yield the script and the address it printed.

    Raises:
        ServiceMissing: Java or Maven is missing.
        ServiceFailed: it does not start.
    """
    shared = os.environ.get(f"USP_TEST_{name.upper()}_STATE")
    if shared:
        script = DaemonScript(name, Path(shared).resolve())
        was_running = bool(script.status())
        try:
            yield script, script.run("start")
        finally:
            if not was_running:
                script.run("stop")
        return
    end_abandoned_sessions()
    script = DaemonScript(name, session_directory() / name)
    try:
        yield script, script.run("start", "--port", "0")
    finally:
        script.run("stop")
        shutil.rmtree(script.state, ignore_errors=True)


@cache
def session_directory() -> Path:
    """Return this session's directory, and hold a lock in it for as long as the process lives."""
    SESSIONS.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="session-", dir=SESSIONS))
    owner = (directory / "owner").open("w")
    fcntl.flock(owner, fcntl.LOCK_EX)
    atexit.register(_leave, owner, directory)
    return directory


def _leave(owner: IO[str], directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    owner.close()


def end_abandoned_sessions() -> None:
    """End the daemons, and delete the data, of sessions that were killed before they could."""
    for owner in SESSIONS.glob("*/owner"):
        with contextlib.suppress(OSError), owner.open() as file:
            # Refused while the session that made it lives.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for state in owner.parent.iterdir():
                if state.is_dir():
                    DaemonScript(state.name, state).run("stop")
            shutil.rmtree(owner.parent, ignore_errors=True)


class Broker:
    """A Kafka broker under test, whichever it is."""

    kind: str
    version = ""
    can_restart = False  # whether `kill9` and `start` work and keep what was committed

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers

    @cached_property
    def admin(self) -> AdminClient:
        """An administration client of this broker."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})

    def create_topic(
        self, name: str, partitions: int = 1, config: dict[str, str] | None = None
    ) -> str:
        """Create a topic, wait until its partitions have a leader, and return its name."""
        topic = NewTopic(name, partitions, replication_factor=1, config=config or {})
        self.admin.create_topics([topic])[name].result(timeout=30)
        wait_until(lambda: self._leaders(name) == partitions, f"leaders of {name}")
        return name

    def _leaders(self, name: str) -> int:
        topic = self.admin.list_topics(name, timeout=10).topics[name]
        return sum(partition.leader >= 0 for partition in topic.partitions.values())

    def kill9(self) -> None:
        """End the broker as a crash would."""
        raise NotImplementedError(f"the {self.kind} broker is not restarted by tests")

    def start(self) -> None:
        """Start it again on the same address with the same data, and wait until it answers."""
        raise NotImplementedError(f"the {self.kind} broker is not restarted by tests")

    def restart(self) -> None:
        """Crash it and start it again."""
        self.kill9()
        self.start()


class RealBroker(Broker):
    """Apache Kafka, run by `scripts/kafka`."""

    kind = "real"
    can_restart = True

    def __init__(self, script: DaemonScript, bootstrap_servers: str) -> None:
        super().__init__(bootstrap_servers)
        self._script = script
        self.version = script.status()["version"]

    def kill9(self) -> None:
        self._script.run("kill9")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it in its tracks: connections stay open, and nobody answers."""
        pid = int(self._script.status()["pid"])
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def start(self) -> None:
        address = self._script.run("start")
        if address != self.bootstrap_servers:
            raise ServiceFailed(f"the broker moved from {self.bootstrap_servers} to {address}")


class EmbeddedBroker(Broker):
    """The project's own broker, `python -m pipeline.broker`, in memory."""

    kind = "embedded"

    @classmethod
    @contextlib.contextmanager
    def running(cls, directory: Path) -> Iterator[Self]:
        """Run one on a free port, with its output in `directory`, and end it afterwards.

        Raises:
            ServiceFailed: it ends, or prints no address within 30 s.
        """
        output, errors = directory / "broker.out", directory / "broker.err"
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.broker", "--port", "0"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=CHECKOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        try:
            yield cls(cls._await_address(process, output, errors))
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @staticmethod
    def _await_address(process: subprocess.Popen[bytes], output: Path, errors: Path) -> str:
        addresses: list[str] = []

        def printed() -> bool:
            addresses[:] = re.findall(r"^127\.0\.0\.1:\d+$", output.read_text(), re.MULTILINE)
            return bool(addresses) or process.poll() is not None

        with contextlib.suppress(TimeoutError):
            wait_until(printed, "the embedded broker's address")
        if not addresses:
            raise ServiceFailed(f"the embedded broker did not start: {errors.read_text()[-2000:]}")
        return addresses[0]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Ask until `condition()` holds.

    Raises:
        TimeoutError: it does not hold within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)
