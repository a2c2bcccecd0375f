"""The worker as a process: start, signals, exit codes."""

from __future__ import annotations

import gc
import signal
import threading
import time
from types import FrameType

from consumers.events import ConsumerFailed
from pipeline import device
from pipeline.config import Config
from pipeline.errors import ExitCode, UserError
from pipeline.log import Log
from pipeline.pool import StatePool
from pipeline.recovery import DataLossRefused, StructureRefused
from pipeline.startup import Connection, connect
from pipeline.worker import StoppedWithoutBroker, Worker, client_settings
from producers.client import AuthenticationFailed, Fenced

MAXIMUM_RECORD_BYTES = 16 * 1024 * 1024

FENCED_REMEDY = (
    "another worker runs under the same identity; give each its own kafka.instance_id, or let "
    "the other one go on"
)


def run_worker(config: Config) -> int:
    """Run one worker in this process until a signal; returns the exit code.

    **Failure:** `UserError` with the exit code and one line that names field and remedy.
    """
    log = Log(config.instance)
    stop = threading.Event()
    worker: list[Worker] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()
        for each in worker:
            each.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        made = _start(config, log)
        # What start-up made stays for good: without this every collection walks the compiler's
        # object graph, which doubles the cost of a tick outside of the step.
        gc.collect()
        gc.freeze()
        worker.append(made)
        if stop.is_set():
            made.stop()
        made.run()
    except Fenced as error:
        raise UserError(f"fenced: {error}; {FENCED_REMEDY}", ExitCode.FENCED) from None
    except AuthenticationFailed as error:
        raise UserError(
            f"kafka.extra: the cluster refuses this worker ({error}); check credentials and ACLs",
            ExitCode.AUTHENTICATION,
        ) from None
    except DataLossRefused as error:
        raise UserError(str(error), ExitCode.DATA_LOSS_POLICY) from None
    except StructureRefused as error:
        raise UserError(str(error), ExitCode.CONFIGURATION) from None
    except ConsumerFailed as error:
        raise UserError(str(error), _CONSUMER_EXIT[error.kind]) from None
    except StoppedWithoutBroker as error:
        log.warning("stopped_without_last_commit", reason=str(error))
    log.info("stopped")
    return 0


_CONSUMER_EXIT = {
    "fenced": ExitCode.FENCED,
    "authentication": ExitCode.AUTHENTICATION,
    "offset_out_of_range": ExitCode.DATA_LOSS_POLICY,
    "fatal": ExitCode.PREFLIGHT,
}


def _start(config: Config, log: Log) -> Worker:
    """Everything before the group is joined; the device compiles while the broker answers."""
    began = time.monotonic()
    device.configure(config.device)
    connecting: list[Connection] = []
    failure: list[BaseException] = []

    def connect_in_background() -> None:
        try:
            connecting.append(connect(config, client_settings(config), MAXIMUM_RECORD_BYTES))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=connect_in_background, name="connect", daemon=True)
    thread.start()
    pool = StatePool(config.predictor, config.device.slab_assets)
    pool.warm_up()
    environment = device.environment_fingerprint(config)
    thread.join()
    if failure:
        raise failure[0]
    connection = connecting[0]
    log.info(
        "ready_to_join",
        seconds=round(time.monotonic() - began, 2),
        environment=environment,
        state_bytes=pool.state_bytes,
    )
    return Worker(
        config,
        pool,
        connection.producer,
        connection.reader,
        connection.framings,
        connection.registry,
        connection.partitions,
        environment,
        log,
    )
