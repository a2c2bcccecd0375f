"""Start, find again and end one detached JVM service that belongs to this checkout.

`scripts/kafka` and `scripts/registry` describe their service (`Service`) and hand it to `main`;
everything about processes, ports, locks and downloads is here. Standard library only, so that both
run with any Python 3.9 or newer, before anything is installed.

A service keeps its run state in one directory, by default `.cache/NAME` of this checkout:

    daemon.json   port of the last start; pid and start time while it runs
    service.log   output of the running daemon (the previous one is service.log.1)
    lock          held (flock) by whichever command is at work, so that commands queue up

What is downloaded goes to `$USP_CACHE_DIR` (default `~/.cache/usp`), shared by all checkouts.

Exit codes: 0 done, 1 failed or (for `status`) not running, 2 usage, 4 something is missing on this
machine. Errors are one line on stderr that names the remedy.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
MINIMUM_JAVA = 17
JAVA_REMEDY = "install a JRE 17 or newer (Debian: openjdk-17-jre-headless) or set JAVA_HOME"
MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"

# Ports that the operating system does not hand out to clients (Linux starts at 32768, macOS at
# 49152): a client that reconnects to a dead broker could otherwise be given the broker's own port.
UNCLAIMED_PORTS = range(20_000, 32_000)

# Measured starts take 2 to 4 s on two idle cores; the rest is for machines that are busy.
START_DEADLINE_SECONDS = 120.0
STOP_DEADLINE_SECONDS = 20.0
# A JVM killed with a large heap needs a moment to give its port back.
PORT_RELEASE_SECONDS = 5.0


# Kafka says "Address already in use", Quarkus "seems to be in use by another process".
PORT_TAKEN = re.compile(r"(already|seems to be) in use")


class Problem(Exception):
    """What stops a command: one line for the user, and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Service:
    """One kind of daemon. Subclasses say what it is; they start and end nothing themselves."""

    name: str  # directory and command name
    title: str  # what users read
    version: str
    default_port: int
    has_data: bool  # whether it keeps data that `kill9` leaves and `wipe` deletes

    def fetch(self) -> Path:
        """Return the directory with the service's jars, downloading them if they are not there."""
        raise NotImplementedError

    def command(self, java: str, libraries: Path, state: Path, port: int) -> list[str]:
        """Prepare `state` for a start on `port` and return the JVM's command line."""
        raise NotImplementedError

    def answers(self, state: Path, port: int) -> bool:
        """Say whether the service started from `state` answers a real request on `port`."""
        raise NotImplementedError

    def address(self, port: int) -> str:
        """Return what clients connect to."""
        raise NotImplementedError


# --- processes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """What identifies a process beyond its number, which the system uses again."""

    started: str
    command: str
    exiting: bool = False  # killed, but not all of its threads have let go of files and ports


def look_up(pid: int) -> Process | None:
    """Return the process that has this number now; None when there is none or only a zombie."""
    if Path("/proc/self/stat").exists():
        return _look_up_in_proc(Path("/proc") / str(pid))
    answer = subprocess.run(
        ["ps", "-ww", "-o", "lstart=,command=", "-p", str(pid)], capture_output=True, text=True
    )
    line = answer.stdout.strip()
    # `lstart` is a fixed-width date of 24 characters.
    return Process(line[:24], line[24:]) if line else None


def _look_up_in_proc(directory: Path) -> Process | None:
    try:
        fields = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
        command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        threads = len(os.listdir(directory / "task"))
    except OSError:
        return None
    state, started = fields[0], fields[19]
    # Where nobody reaps orphans (many containers) a dead daemon stays behind as a zombie.
    exiting = state in "ZX"
    return None if exiting and threads <= 1 else Process(started, command, exiting)


@dataclass(frozen=True)
class Record:
    """What `daemon.json` holds: the last port always, the process only while it may run."""

    port: int
    pid: int | None = None
    started: str = ""
    version: str = ""


class Daemon:
    """The one process that may run from a state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state.resolve()
        self.log = self.state / "service.log"
        self._file = self.state / "daemon.json"
        # On the daemon's command line: a copy of this checkout must not take it for its own.
        self.token = f"-Dusp.state={self.state}"

    def record(self) -> Record | None:
        """Return what the last start left, or None. An unreadable file counts as none."""
        try:
            return Record(**json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Replace `daemon.json` in one step."""
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(record)) + "\n")
        os.replace(temporary, self._file)

    def running(self) -> Record | None:
        """Return the record of the daemon if it runs and is this directory's own, else None."""
        record = self.record()
        return record if record and self._owns(record) else None

    def _owns(self, record: Record) -> bool:
        process = look_up(record.pid) if record.pid else None
        if process is None or process.started != record.started:
            return False
        return process.exiting or self.token in process.command

    def launch(self, command: Sequence[str], port: int, version: str) -> Record:
        """Start `command` in a session of its own, with nothing of the caller but its environment.

        Its output goes to the log; descriptors, terminal and working directory of the caller are
        not inherited, so `$(… start)` returns while the daemon goes on.
        """
        if self.log.exists():
            os.replace(self.log, self.log.with_suffix(".log.1"))
        with self.log.open("wb") as log:
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.state,
                start_new_session=True,
                close_fds=True,
            )
        process = look_up(daemon.pid)
        record = Record(port, daemon.pid, process.started if process else "", version)
        self.write(record)
        # For a moment after the program was replaced the system shows no command line yet.
        poll(lambda: self.running() or daemon.poll() is not None, START_DEADLINE_SECONDS)
        return record

    def end(self, number: int, deadline_seconds: float) -> bool:
        """Signal the daemon, if it runs, and wait; return whether it is gone by the deadline."""
        record = self.running()
        if record is None or record.pid is None:
            return True
        self._signal(record, number)
        gone = poll(lambda: self.running() is None, deadline_seconds)
        if gone:
            self.write(Record(record.port))
        return gone

    def _signal(self, record: Record, number: int) -> None:
        assert record.pid is not None
        with contextlib.suppress(ProcessLookupError):
            if not hasattr(os, "pidfd_open"):
                os.kill(record.pid, number)
                return
            # A pidfd stays with the process that was verified, even if its number is used again.
            handle = os.pidfd_open(record.pid)
            try:
                if self._owns(record):
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def poll(
    condition: Callable[[], object], deadline_seconds: float, interval_seconds: float = 0.05
) -> bool:
    """Ask until `condition()` holds; return False when the deadline passes first."""
    deadline = time.monotonic() + deadline_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval_seconds)
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, waiting for whoever has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- ports ----------------------------------------------------------------------------------------


def has_listener(port: int) -> bool:
    """Say whether something accepts connections on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def can_bind(port: int) -> bool:
    """Say whether a JVM could listen on this port now."""
    with socket.socket() as probe:
        # As Java does: connections of a previous daemon that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def choose_port(wanted: int, avoid: Sequence[int] = (), patience_seconds: float = 0.0) -> int:
    """Return `wanted` if it is free, else a random free port; 0 asks for any.

    A port that refuses connections and cannot be bound either is being given back by a process
    that is exiting: it is waited for, up to `patience_seconds`.
    """
    if (
        wanted
        and wanted not in avoid
        and poll(lambda: has_listener(wanted) or can_bind(wanted), patience_seconds)
        and not has_listener(wanted)
    ):
        return wanted
    for port in random.sample(UNCLAIMED_PORTS, 200):
        if port not in avoid and not has_listener(port) and can_bind(port):
            return port
    raise Problem("no free port on the loopback interface; name one with --port")


# --- Java and Maven -------------------------------------------------------------------------------


def find_java() -> str:
    """Return a `java` of version 17 or newer: JAVA_HOME's, else the one on the PATH."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java")] if home else []
    candidates.append("java")
    too_old = ""
    for candidate in candidates:
        java = shutil.which(candidate)
        version = _java_version(java) if java else None
        if java and version and version >= MINIMUM_JAVA:
            return java
        if version:
            too_old = f"java {version} is too old"
    raise Problem(f"{too_old or 'java not found'}; {JAVA_REMEDY}", exit_code=4)


def _java_version(java: str) -> int | None:
    answer = subprocess.run(
        [java, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    # 17.0.15 is Java 17; up to Java 8 the numbers read 1.8.0.
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return int(match.group(1)) if match else None


def cache_directory() -> Path:
    """Return where downloads are kept for all checkouts of this user."""
    named = os.environ.get("USP_CACHE_DIR")
    return Path(named) if named else Path.home() / ".cache" / "usp"


def fetched(
    name: str, needed_file: str, goal: Sequence[str], title: str, pom: str | None = None
) -> Path:
    """Return the cached directory `name`, filling it with one Maven run if it is not there.

    The directory appears complete or not at all: Maven fills a temporary one beside it, which is
    renamed once it holds `needed_file`.

    Args:
        name: directory inside the cache.
        needed_file: name of a file without which the download is not complete.
        goal: arguments for Maven; `{target}` is replaced by the directory to fill.
        title: what is fetched, for messages.
        pom: project file that the goal works on, for goals that need one.
    """
    final = cache_directory() / name
    if final.is_dir():
        return final
    with locked(cache_directory() / f"{name}.lock"):
        if final.is_dir():
            return final
        maven = shutil.which("mvn")
        if maven is None:
            raise Problem(
                f"mvn not found; install Maven (Debian: maven), which fetches {title} once",
                exit_code=4,
            )
        say(f"fetching {title} into {final} (once)")
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=final.parent) as scratch:
            target = Path(scratch) / "files"
            words = [word.format(target=target) for word in goal]
            _run_maven(maven, Path(scratch), words, title, pom)
            if not (target / needed_file).is_file():
                raise Problem(f"Maven fetched {title} without {needed_file}; try again", 4)
            os.replace(target, final)
    return final


def _run_maven(maven: str, scratch: Path, goal: list[str], title: str, pom: str | None) -> None:
    project = []
    if pom:
        (scratch / "pom.xml").write_text(pom)
        project = ["-f", str(scratch / "pom.xml")]
    answer = subprocess.run(
        [maven, "-q", "-B", *project, *goal],
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if answer.returncode:
        output = re.sub(r"\x1b\[[0-9;]*m", "", answer.stdout)
        errors = [line for line in output.splitlines() if "ERROR" in line]
        cause = errors[0].replace("[ERROR]", "").strip() if errors else "no reason given"
        raise Problem(
            f"Maven could not fetch {title}; check the network and ~/.m2/settings.xml ({cause})", 4
        )


# --- commands -------------------------------------------------------------------------------------


def say(message: str) -> None:
    """Tell the user how things go; stdout is kept for the result."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def start(service: Service, daemon: Daemon, wanted: int | None) -> Record:
    """Return the running daemon, starting it if need be, once it answers.

    The port is the wanted one, else that of the previous start, else the service's default; any of
    them gives way to a free one when somebody else listens there.
    """
    record = daemon.running()
    if record is not None:
        if not await_answer(service, daemon, record):
            raise Problem(f"{service.title} (pid {record.pid}) does not answer; see {daemon.log}")
        return record
    java, libraries = find_java(), service.fetch()
    previous = daemon.record()
    if wanted is None:
        wanted = previous.port if previous else service.default_port
    for _attempt in range(3):
        port = choose_port(wanted, patience_seconds=PORT_RELEASE_SECONDS)
        command = service.command(java, libraries, daemon.state, port)
        command.insert(1, daemon.token)
        record = daemon.launch(command, port, service.version)
        if await_answer(service, daemon, record):
            return record
        # Between choosing a port and listening on it somebody else may have taken it.
        if not (daemon.running() is None and PORT_TAKEN.search(log_text(daemon))):
            break
    say("".join(f"  {line}\n" for line in log_text(daemon).splitlines()[-15:]).rstrip())
    state = "does not answer" if daemon.running() else "ended while starting"
    raise Problem(f"{service.title} {state}; see {daemon.log}")


def await_answer(service: Service, daemon: Daemon, record: Record) -> bool:
    """Wait until the daemon answers; return False when it ends first or the deadline passes."""
    answered = False

    def settled() -> bool:
        nonlocal answered
        answered = service.answers(daemon.state, record.port)
        return answered or daemon.running() is None

    poll(settled, START_DEADLINE_SECONDS, interval_seconds=0.1)
    # An answer counts only while our own process lives: it could be a stranger's.
    return answered and daemon.running() is not None


def log_text(daemon: Daemon) -> str:
    """Return the log of the current or last run."""
    try:
        return daemon.log.read_text(errors="replace")
    except OSError:
        return ""


def stop(service: Service, daemon: Daemon) -> None:
    """End the daemon gracefully: SIGTERM, then SIGKILL after 20 s."""
    if not daemon.end(signal.SIGTERM, STOP_DEADLINE_SECONDS):
        say(f"{service.title} ignored SIGTERM for {STOP_DEADLINE_SECONDS:.0f} s: killed")
        kill9(service, daemon)


def kill9(service: Service, daemon: Daemon) -> None:
    """End the daemon at once, as a crash would; its data stay as they are."""
    if not daemon.end(signal.SIGKILL, STOP_DEADLINE_SECONDS):
        raise Problem(f"{service.title} does not end; see {daemon.log}")


def wipe(service: Service, daemon: Daemon) -> None:
    """End the daemon if it runs, then delete its data, its log and the memory of its port."""
    kill9(service, daemon)
    for entry in daemon.state.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()


def status(service: Service, daemon: Daemon) -> int:
    """Print what runs, one `name: value` per line; return 0 if it runs, 1 if not."""
    record = daemon.running()
    if record is None:
        sys.stdout.write("not running\n")
        return 1
    facts = {
        "service": service.title,
        "version": record.version,
        "address": service.address(record.port),
        "pid": record.pid,
        "state": daemon.state,
        "log": daemon.log,
    }
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in facts.items()))
    return 0


def port_number(text: str) -> int:
    """Parse a port for argparse; 0 means any free one."""
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{port} is not a port (0 to 65535)")
    return port


def parse(service: Service, description: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; argparse ends the process with exit code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog=f"scripts/{service.name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = ["start", "stop", "status"] + (["kill9", "wipe"] if service.has_data else [])
    parser.add_argument("action", choices=actions)
    parser.add_argument(
        "--port",
        type=port_number,
        help=f"port to start on, 0 for any (default: the last one, then {service.default_port}); "
        "another free one is taken when somebody else listens there",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=CHECKOUT / ".cache" / service.name,
        help="directory for data, log and run state (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(service: Service, description: str) -> int:
    """Run one command from the command line and return the exit code."""
    options = parse(service, description, sys.argv[1:])
    daemon = Daemon(options.state)
    try:
        if options.action == "status":
            return status(service, daemon)
        with locked(daemon.state / "lock"):
            if options.action == "start":
                record = start(service, daemon, options.port)
                sys.stdout.write(service.address(record.port) + "\n")
            else:
                {"stop": stop, "kill9": kill9, "wipe": wipe}[options.action](service, daemon)
    except Problem as problem:
        say(f"scripts/{service.name}: {problem}")
        return problem.exit_code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        say(f"scripts/{service.name}: {error}")
        return 1
    return 0
