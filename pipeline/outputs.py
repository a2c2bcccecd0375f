"""Results of a micro-batch as records of the output topics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from consumers.events import Record
from pipeline.config import Topics
from pipeline.generations import InForce
from pipeline.pool import ResultColumns
from predictor.types import Events
from producers.client import Headers, Outgoing
from schemas.codec import Framing, Nullable, RecordEncoder

Host = np.ndarray[Any, Any]

SEVERITY = {
    Events.OUTLIER_REJECTED: "warning",
    Events.REBASED: "info",
    Events.FROZEN_SIGNAL: "warning",
    Events.FROZEN_SIGNAL_RECOVERED: "info",
    Events.STALENESS: "warning",
    Events.FREQUENCY_WARNING: "warning",
    Events.OUT_OF_ORDER: "warning",
    Events.REGIME_CHANGED: "info",
    Events.MODE_COLLAPSE: "warning",
    Events.EMERGENCY: "critical",
    Events.NORMAL_OPERATION_RESTORED: "info",
    Events.WARMED_UP: "info",
    Events.ARCHITECTURE_SCALED: "info",
}

DETAIL = {
    Events.OUTLIER_REJECTED: "not finite, or too far from the location; nothing was learned",
    Events.REBASED: "a second value agreed with a rejected one; the location moved there",
    Events.FROZEN_SIGNAL: "identical values, improbable for this asset; coefficients are held",
    Events.FROZEN_SIGNAL_RECOVERED: "the signal moves again",
    Events.STALENESS: "the gap is long against the asset's own interval; weights are held",
    Events.FREQUENCY_WARNING: "sampled too slowly for the Hölder exponent; it keeps its value",
    Events.OUT_OF_ORDER: "earlier than the last accepted tick, or a repetition; not answered",
    Events.REGIME_CHANGED: "the mean of the errors or of the series has shifted",
    Events.MODE_COLLAPSE: "the value function has lost its entropy",
    Events.EMERGENCY: "a significant loss of regularity",
    Events.NORMAL_OPERATION_RESTORED: "degraded mode and emergency are over",
    Events.WARMED_UP: "kernels and monitors are trusted from here on",
    Events.ARCHITECTURE_SCALED: "another network of the ladder solves the backward equation",
}


class Framings(NamedTuple):
    """How each record type is framed."""

    prediction: Framing
    telemetry: Framing
    event: Framing


class StepInfo(NamedTuple):
    """What is known about the ticks of one micro-batch besides their results, in order."""

    records: Sequence[Record]
    asset_id: Sequence[str]
    magnitude: Host
    timestamp_ns: Host
    request_id: Sequence[str | None]
    state_tag: Sequence[str | None]
    in_force: Sequence[InForce]
    step_seconds: float
    step_jitter_seconds: float


def input_header(topic: str, record: Record) -> Headers:
    """Where an output comes from."""
    return [("usp.input", b"%s/%d/%d" % (topic.encode(), record.partition, record.offset))]


def _present(values: Host) -> Nullable:
    return Nullable(values, ~np.isnan(values))


def _canonical_sha256(values: Host) -> str:
    """Parity hash: little-endian float64, C order, one zero and one NaN."""
    canonical = np.where(np.isnan(values), np.nan, values) + 0.0
    return hashlib.sha256(np.ascontiguousarray(canonical, "<f8").tobytes()).hexdigest()


class OutputWriter:
    """Encodes what one micro-batch says, as records in the order (input offset, kind)."""

    def __init__(self, topics: Topics, framings: Framings, telemetry_every: int) -> None:
        self._topics = topics
        self._every = telemetry_every
        self._prediction = RecordEncoder("prediction", framings.prediction)
        self._telemetry = RecordEncoder("telemetry", framings.telemetry)
        self._event = RecordEncoder("event", framings.event)

    def step_outputs(self, info: StepInfo, results: ResultColumns) -> list[Outgoing]:
        """Predictions, telemetry and events of the ticks."""
        out = self._predictions(info, results)
        out += self._telemetry_records(info, results)
        out += self._events(info, results)
        return out

    def _predictions(self, info: StepInfo, results: ResultColumns) -> list[Outgoing]:
        rows = np.flatnonzero(results.answered).tolist()
        if not rows:
            return []
        records = [info.records[i] for i in rows]

        def floats(name: str) -> Host:
            column: Host = getattr(results, name)[rows]
            return column

        epsilon = floats("sinkhorn_epsilon")
        assets = [info.asset_id[i] for i in rows]
        columns: dict[str, Any] = {
            "asset_id": assets,
            "timestamp_ns": info.timestamp_ns[rows],
            "request_id": [info.request_id[i] for i in rows],
            "state_tag": [info.state_tag[i] for i in rows],
            "source_partition": np.array([r.partition for r in records], np.int32),
            "source_offset": np.array([r.offset for r in records], np.int64),
            "magnitude": info.magnitude[rows],
            "sinkhorn_epsilon": _present(epsilon),
            "sinkhorn_converged": Nullable(floats("sinkhorn_converged"), ~np.isnan(epsilon)),
            "config_generation": np.array([info.in_force[i].number for i in rows], np.int64),
            "config_hash": [info.in_force[i].config_hash for i in rows],
        }
        for name in _PLAIN_PREDICTION_FIELDS:
            columns[name] = floats(name)
        for name in _NULLABLE_PREDICTION_FIELDS:
            columns[name] = _present(floats(name))
        values = self._prediction.encode(columns, len(rows))
        return self._outgoing(self._topics.predictions, records, assets, values)

    def _telemetry_records(self, info: StepInfo, results: ResultColumns) -> list[Outgoing]:
        due = results.answered & (results.answered_ticks % self._every == 0)
        rows = np.flatnonzero(due).tolist()
        records = [info.records[i] for i in rows]
        values = []
        for i in rows:
            record = {
                "asset_id": info.asset_id[i],
                "timestamp_ns": int(info.timestamp_ns[i]),
                "source_partition": info.records[i].partition,
                "source_offset": info.records[i].offset,
                "step": int(results.answered_ticks[i]),
                "weights_sha256": _canonical_sha256(results.weights[i]),
                "transport_cost_sha256": _canonical_sha256(results.transport_cost[i]),
                "weights": results.weights[i].tolist(),
                "kernel_sigma": results.kernel_sigma[i].tolist(),
                "volatility": float(results.volatility[i]),
                "cusum_threshold": float(results.adaptive_threshold[i]),
                "step_latency_seconds": info.step_seconds,
                "step_jitter_seconds": info.step_jitter_seconds,
            }
            for name in (
                "free_energy",
                "kurtosis",
                "holder_exponent",
                "holder_standard_error",
                "jko_step_size",
                "entropy_window",
                "sinkhorn_marginal_error",
                "explicit_frequency",
                "mixed_frequency",
                "implicit_frequency",
                "stiffness_maximum",
                "newton_iterations_mean",
                "implicit_residual_maximum",
                "stiffness_low",
                "stiffness_high",
                "entropy_ratio",
            ):
                value = float(getattr(results, name)[i])
                record[name] = None if np.isnan(value) else value
            record["architecture_width"] = int(results.architecture_width[i])
            record["architecture_depth"] = int(results.architecture_depth[i])
            solved = not np.isnan(results.sinkhorn_marginal_error[i])
            record["sinkhorn_iterations"] = int(results.sinkhorn_iterations[i]) if solved else None
            values.append(self._telemetry.encode_record(record))
        assets = [info.asset_id[i] for i in rows]
        return self._outgoing(self._topics.telemetry, records, assets, values)

    def _events(self, info: StepInfo, results: ResultColumns) -> list[Outgoing]:
        out = []
        for i in np.flatnonzero(results.events).tolist():
            record = info.records[i]
            for kind in Events(int(results.events[i])):
                value = self._event.encode_record(
                    {
                        "kind": kind.name,
                        "severity": SEVERITY[kind],
                        "asset_id": info.asset_id[i],
                        "timestamp_ns": int(info.timestamp_ns[i]),
                        "source_partition": record.partition,
                        "source_offset": record.offset,
                        "detail": DETAIL[kind],
                        "config_generation": info.in_force[i].number,
                    }
                )
                out += self._outgoing(self._topics.events, [record], [info.asset_id[i]], [value])
        return out

    def _outgoing(
        self,
        topic: str,
        records: Sequence[Record],
        assets: Sequence[str],
        values: Sequence[bytes],
    ) -> list[Outgoing]:
        # By asset, which is the tick's key where it has one.
        ticks = self._topics.ticks
        return [
            Outgoing(
                topic, r.partition, asset.encode(), value, r.timestamp_ms, input_header(ticks, r)
            )
            for r, asset, value in zip(records, assets, values, strict=True)
        ]

    def worker_event(
        self, kind: str, severity: str, detail: str, asset: str | None = None
    ) -> Outgoing:
        """An event of the worker rather than of a tick: null key, partition 0."""
        value = self._event.encode_record(
            {"kind": kind, "severity": severity, "asset_id": asset, "detail": detail}
        )
        return Outgoing(self._topics.events, 0, None, value, 0, [])


_NULLABLE_PREDICTION_FIELDS = ("holder_exponent", "kurtosis", "dgm_entropy", "free_energy")
_PLAIN_PREDICTION_FIELDS = (
    "sequence",
    "reference_prediction",
    "confidence_lower",
    "confidence_upper",
    "location",
    "scale",
    "operating_mode",
    "mode",
    "weights",
    "kernel_predictions",
    "cusum_drift",
    "adaptive_threshold",
    "distance_to_collapse",
    "degraded_inference_mode",
    "emergency_mode",
    "regime_change_detected",
    "mode_collapse_warning",
    "outlier_rejected",
    "signature_depth",
    "cusum_alarm",
    "shift_alarm",
)
