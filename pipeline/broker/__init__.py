"""The embedded broker: a small Kafka-protocol server with real transactions.

For demos and tests: one process, in memory, nothing replicated, nothing durable. It runs
librdkafka clients unchanged. Idempotent and transactional producers, control markers, the last
stable offset, classic consumer groups with static membership, offsets inside transactions,
topic administration and compaction behave like Apache Kafka's; the newer consumer group protocol
(`group.protocol=consumer`) is not offered.

    with running_broker({"ticks": 4}) as bootstrap_servers:
        ...

From a shell: `python -m pipeline.broker --topic ticks:4`.
"""

from .node import Clock
from .server import Broker, running_broker

__all__ = ["Broker", "Clock", "running_broker"]
