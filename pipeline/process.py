"""The worker as a process: start, signals, exit codes."""

from __future__ import annotations

import gc
import os
import threading
import time

from consumers.events import ConsumerFailed
from pipeline import device
from pipeline.cluster import refused_setting
from pipeline.config import Config
from pipeline.errors import ExitCode, UserError
from pipeline.log import Log
from pipeline.patience import Patience
from pipeline.pool import StatePool
from pipeline.recovery import DataLossRefused, StructureRefused
from pipeline.settlement import StoppedWithoutBroker
from pipeline.signals import on_stop_signals
from pipeline.startup import Connection, connect
from pipeline.worker import Worker, client_settings
from producers.client import AuthenticationFailed, Fenced, SettingsRefused

FENCED_REMEDY = (
    "another worker runs under the same identity; give each its own kafka.instance_id, or let "
    "the other one go on"
)

START_GRACE_SECONDS = 2.0
"""After a stop signal, time for a start to end by itself; nothing has begun that would have to be
finished, and the compiler cannot be asked to hurry."""

STOP_GRACE_SECONDS = 2.0
"""The same for a worker that has used up its time to shut down."""


def run_worker(config: Config) -> int:
    """Run one worker in this process until a signal; returns the exit code.

    **Failure:** `UserError` with the exit code and one line that names field and remedy.
    """
    log = Log(config.instance)
    life = _Life(config, log)
    with on_stop_signals(life.stop):
        try:
            _work(config, log, life)
        except Fenced as error:
            raise UserError(f"fenced: {error}; {FENCED_REMEDY}", ExitCode.FENCED) from None
        except AuthenticationFailed as error:
            raise UserError(
                f"kafka.extra: the cluster refuses this worker ({error}); check credentials and "
                "ACLs",
                ExitCode.AUTHENTICATION,
            ) from None
        except SettingsRefused as error:
            raise refused_setting(config, str(error)) from None
        except DataLossRefused as error:
            raise UserError(str(error), ExitCode.DATA_LOSS_POLICY) from None
        except StructureRefused as error:
            raise UserError(str(error), ExitCode.CONFIGURATION) from None
        except ConsumerFailed as error:
            if error.kind == "settings":
                raise refused_setting(config, str(error)) from None
            raise UserError(str(error), _CONSUMER_EXIT[error.kind]) from None
        except StoppedWithoutBroker as error:
            log.warning("stopped_without_last_commit", reason=str(error))
        finally:
            life.over()
    log.info("stopped")
    return 0


def _work(config: Config, log: Log, life: _Life) -> None:
    """A worker's life; its clients are gone on return."""
    worker = _start(config, log, life)
    if worker is not None:
        life.working = True
        # What start-up made stays for good: without this every collection walks the compiler's
        # object graph, which doubles the cost of a tick outside of the step.
        gc.collect()
        gc.freeze()
        worker.run()


_CONSUMER_EXIT = {
    "fenced": ExitCode.FENCED,
    "authentication": ExitCode.AUTHENTICATION,
    "offset_out_of_range": ExitCode.DATA_LOSS_POLICY,
    "fatal": ExitCode.PREFLIGHT,
}


class _Life:
    """What a stop signal does, and the end that comes in any case."""

    def __init__(self, config: Config, log: Log) -> None:
        self._seconds = config.worker.shutdown_timeout_seconds
        self._log = log
        self._end: threading.Timer | None = None
        self.patience = Patience()
        self.working = False

    def stop(self) -> None:
        """Ask whatever runs to come to its end, which it does or is brought to."""
        self.patience.stop(self._seconds)
        seconds = self._seconds + STOP_GRACE_SECONDS if self.working else START_GRACE_SECONDS
        self._end = threading.Timer(seconds, self._exit)
        self._end.daemon = True
        self._end.start()

    def _exit(self) -> None:
        # Nothing is lost by this: what was not committed is stepped again by the next start.
        self._log.warning("stopped_by_deadline", working=self.working)
        os._exit(ExitCode.OK)

    def over(self) -> None:
        """All was done in time."""
        if self._end is not None:
            self._end.cancel()


def _start(config: Config, log: Log, life: _Life) -> Worker | None:
    """Everything before the group is joined; the device compiles while the broker answers.

    None where a stop signal came first.
    """
    began = time.monotonic()
    device.configure(config.device)
    connecting: list[Connection] = []
    failure: list[BaseException] = []

    def connect_in_background() -> None:
        try:
            connecting.append(connect(config, client_settings(config)))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=connect_in_background, name="connect", daemon=True)
    thread.start()
    pool = StatePool(config.predictor, config.device.slab_assets)
    pool.warm_up()
    environment = device.environment_fingerprint(config)
    while thread.is_alive() and not life.patience.stopping:
        thread.join(0.05)
    if life.patience.stopping:
        return None
    if failure:
        raise failure[0]
    log.info(
        "ready_to_join",
        seconds=round(time.monotonic() - began, 2),
        environment=environment,
        state_bytes=pool.state_bytes,
    )
    return Worker(config, pool, connecting[0], environment, log, life.patience)
