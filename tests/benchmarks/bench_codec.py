"""What does the codec cost per message, in a batch and one by one?

Run with `python -m tests.benchmarks.bench_codec`. Every figure is the best of several repetitions
on one core, in microseconds per message, with headers, key checks and conversion to the columns
that the worker uses; "one by one" is fastavro's schemaless reader or writer alone.
"""

import io
import platform
import sys
import timeit
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np

from schemas.catalogue import load_schema, parsed_schema
from schemas.codec import Framing, Nullable, PredictionEncoder, TickDecoder, encode_tick

BATCHES = (64, 256, 1000, 4096)
KERNELS = 4


def ticks(count: int) -> list[dict[str, Any]]:
    """Ticks of 500 assets, half with a dispersion proxy, all with a request id."""
    return [
        {
            "asset_id": f"ASSET-{i % 500:04d}",
            "magnitude": 100.0 + 0.01 * i,
            "timestamp_ns": 1_700_000_000_000_000_000 + i * 1_000_003,
            "dispersion_proxy": 0.25 if i % 2 else None,
            "request_id": f"request-{i}",
        }
        for i in range(count)
    ]


def prediction_columns(count: int) -> dict[str, Any]:
    """Columns as the worker has them: arrays, masks, and scalars where all rows agree."""
    generator = np.random.default_rng(0)
    present = np.arange(count) % 16 != 0
    columns: dict[str, Any] = {}
    for field in load_schema("prediction")["fields"]:
        name, kind = field["name"], field["type"]
        if kind == "double":
            columns[name] = generator.normal(size=count)
        elif kind == ["null", "double"]:
            columns[name] = Nullable(generator.normal(size=count), present)
        elif kind == "boolean":
            columns[name] = present
    columns["asset_id"] = [f"ASSET-{i % 500:04d}" for i in range(count)]
    columns["request_id"] = [f"request-{i}" for i in range(count)]
    columns["state_tag"] = None
    columns["timestamp_ns"] = 1_700_000_000_000_000_000 + np.arange(count)
    columns["source_partition"] = 3
    columns["source_offset"] = np.arange(count)
    columns["sequence"] = np.arange(count)
    columns["operating_mode"] = np.zeros(count, np.int64)
    columns["mode"] = np.zeros(count, np.int64)
    columns["weights"] = generator.dirichlet(np.ones(KERNELS), count)
    columns["kernel_predictions"] = generator.normal(size=(count, KERNELS))
    columns["sinkhorn_converged"] = Nullable(present, present)
    columns["signature_depth"] = 3
    columns["config_generation"] = 1
    columns["config_hash"] = "0" * 64
    return columns


def microseconds(run: Callable[[], object], count: int) -> float:
    """Best time of one call, per message."""
    repeats = max(1, 4096 // count)
    return min(timeit.repeat(run, number=repeats, repeat=5)) / repeats / count * 1e6


def main() -> None:
    """Print one line per batch size."""
    framing = Framing.single_object()
    decoder, encoder = TickDecoder(), PredictionEncoder(framing)
    tick_schema, prediction_schema = parsed_schema("tick"), parsed_schema("prediction")
    write = sys.stdout.write
    write(f"python {platform.python_version()}, {platform.machine()}, µs per message\n")
    write("batch | decode: batch  one bad value  one by one | encode: batch  one by one\n")
    for count in BATCHES:
        records = ticks(count)
        values: list[bytes | None] = [encode_tick(record, framing) for record in records]
        keys: list[bytes | None] = [record["asset_id"].encode() for record in records]
        poisoned = [b"poison", *values[1:]]
        payloads = [value[10:] for value in values if value]
        columns = prediction_columns(count)
        predictions = [
            fastavro.schemaless_reader(io.BytesIO(value[10:]), prediction_schema, None)
            for value in encoder.encode(columns, count)
        ]

        def read_one_by_one(payloads: list[bytes] = payloads) -> None:
            for payload in payloads:
                fastavro.schemaless_reader(io.BytesIO(payload), tick_schema, None)

        def write_one_by_one(predictions: list[Any] = predictions) -> None:
            for prediction in predictions:
                fastavro.schemaless_writer(io.BytesIO(), prediction_schema, prediction)

        figures = (
            microseconds(lambda v=values, k=keys: decoder.decode(v, k), count),  # type: ignore[misc]
            microseconds(lambda v=poisoned, k=keys: decoder.decode(v, k), count),  # type: ignore[misc]
            microseconds(read_one_by_one, count),
            microseconds(lambda c=columns, n=count: encoder.encode(c, n), count),  # type: ignore[misc]
            microseconds(write_one_by_one, count),
        )
        write(
            f"{count:5d} | {figures[0]:13.2f} {figures[1]:14.2f} {figures[2]:11.2f} | "
            f"{figures[3]:13.2f} {figures[4]:11.2f}\n"
        )


if __name__ == "__main__":
    main()
