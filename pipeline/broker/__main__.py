"""Run the embedded broker alone: `python -m pipeline.broker --topic ticks:4`.

Prints its address as one line once it listens, and ends with exit status 0 on SIGTERM or SIGINT.
For demos and tests: one process, in memory, nothing replicated, nothing durable.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from .server import Broker


def parse_topic(text: str) -> tuple[str, int, dict[str, str | None]]:
    """`NAME:PARTITIONS` or `NAME:PARTITIONS:compact`."""
    name, _, rest = text.partition(":")
    count, _, policy = rest.partition(":")
    if not count.isdigit() or policy not in ("", "compact", "delete"):
        raise argparse.ArgumentTypeError("expected NAME:PARTITIONS or NAME:PARTITIONS:compact")
    return name, int(count), {"cleanup.policy": policy} if policy else {}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.broker",
        description="A single-node Kafka broker for demos and tests; nothing is kept on disk.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (0: a free one)")
    parser.add_argument(
        "--topic",
        type=parse_topic,
        action="append",
        default=[],
        metavar="NAME:PARTITIONS[:compact]",
        help="create a topic at the start; may be repeated",
    )
    parser.add_argument(
        "--auto-create",
        type=int,
        default=0,
        metavar="PARTITIONS",
        help="create unknown topics with this many partitions (0: do not)",
    )
    return parser.parse_args(arguments)


async def serve(arguments: argparse.Namespace) -> None:
    broker = Broker(arguments.host, arguments.port, arguments.auto_create)
    for name, count, config in arguments.topic:
        broker.create_topic(name, count, config)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    address = await broker.start()
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    await stopped.wait()
    await broker.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; `arguments` are those of the command line unless given."""
    try:
        asyncio.run(serve(parse_arguments(arguments)))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
