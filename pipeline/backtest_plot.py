"""The picture of a backtest: values, forecasts, intervals and alarms of a few assets."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from pipeline.backtest import Forecasts, Score

MOST_ASSETS = 6
MOST_POINTS = 300
INK, VALUE, FORECAST, BAND, ALARM = "#1f2933", "#8a97a5", "#d1600b", "#f3c9a5", "#8e1b3c"


def save(path: Path, forecasts: Sequence[Forecasts], scores: Sequence[Score], title: str) -> None:
    """Write the picture as PNG, SVG or PDF by the extension, or as one self-contained HTML page.

    **Failure:** OSError where the file cannot be written, ValueError for another extension.
    """
    figure = draw(forecasts[:MOST_ASSETS], scores[:MOST_ASSETS], title)
    if path.suffix.lower() in (".html", ".htm"):
        path.write_text(_page(figure, title, len(forecasts)), encoding="utf-8")
    else:
        figure.savefig(path, dpi=144)


def draw(forecasts: Sequence[Forecasts], scores: Sequence[Score], title: str) -> Figure:
    """One panel per asset, the last `MOST_POINTS` ticks of each."""
    columns = 1 if len(forecasts) == 1 else 2
    rows = -(-len(forecasts) // columns)
    figure = Figure(figsize=(12.0, 1.3 + 3.2 * rows), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK)
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for panel, forecast, score in zip(panels, forecasts, scores, strict=False):
        _panel(panel, forecast, score)
    for panel in panels[len(forecasts) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False)
    return figure


def _panel(panel: Any, said: Forecasts, score: Score) -> None:
    # A forecast belongs over the tick that it is about, the one after it was made.
    shown = slice(max(1, len(said.magnitudes) - MOST_POINTS), len(said.magnitudes))
    before = slice(shown.start - 1, max(shown.stop - 1, 0))
    x, dates = _axis(said.timestamps_ns[shown])
    value = said.magnitudes[shown]
    lower, upper = said.lower[before], said.upper[before]
    alarm = said.alarm[shown]
    panel.fill_between(x, lower, upper, color=BAND, alpha=0.6, linewidth=0, label="95 % interval")
    panel.plot(
        x,
        value,
        color=VALUE,
        linewidth=0.7,
        marker=".",
        markersize=3,
        markerfacecolor=INK,
        markeredgecolor=INK,
        label="value",
    )
    panel.plot(x, said.forecast[before], color=FORECAST, linewidth=1.2, label="forecast")
    panel.plot(
        x[alarm],
        value[alarm],
        linestyle="none",
        marker="v",
        markersize=8,
        markerfacecolor="none",
        markeredgecolor=ALARM,
        markeredgewidth=1.3,
        label="regime alarm",
        zorder=4,
    )
    _limit(panel, value, lower, upper)
    panel.set_title(_caption(score), loc="left", fontsize=10, color=INK)
    panel.grid(True, linewidth=0.4, alpha=0.35)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.margins(x=0.01)
    if dates:
        locator = AutoDateLocator(minticks=3, maxticks=7)
        panel.xaxis.set_major_locator(locator)
        panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        panel.set_xlabel("seconds since the first point shown", fontsize=8)


def _axis(timestamps_ns: Any) -> tuple[Any, bool]:
    """Calendar times, or seconds where the whole panel is too short for a calendar."""
    span = int(timestamps_ns[-1] - timestamps_ns[0]) if len(timestamps_ns) else 0
    if span < 2_000_000_000:
        return (timestamps_ns - timestamps_ns[:1]) / 1e9, False
    return timestamps_ns.astype("datetime64[ns]").astype("datetime64[us]"), True


def _limit(panel: Any, value: Any, lower: Any, upper: Any) -> None:
    """Let the values decide the scale: one wide interval must not flatten them."""
    finite = value[np.isfinite(value)]
    if not len(finite):
        return
    low, high = float(finite.min()), float(finite.max())
    bounds = np.concatenate([lower[np.isfinite(lower)], upper[np.isfinite(upper)]])
    if len(bounds):
        room = max(high - low, 1e-12)
        low = max(min(low, float(np.percentile(bounds, 1))), low - room)
        high = min(max(high, float(np.percentile(bounds, 99))), high + room)
    margin = 0.05 * ((high - low) or abs(high) or 1.0)
    panel.set_ylim(low - margin, high + margin)


def _caption(score: Score) -> str:
    if not score.scored or score.rmse_ratio != score.rmse_ratio:
        return f"{score.asset}: nothing to score"
    return f"{score.asset}: RMSE {score.rmse_ratio:.3f} of persistence, {score.coverage:.1%} inside"


def _page(figure: Figure, title: str, assets: int) -> str:
    text = io.StringIO()
    # A fixed salt and no date, so that the same backtest gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": "usp", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    picture = text.getvalue()
    picture = picture[picture.index("<svg") :]
    note = f"The first {MOST_ASSETS} of {assets} assets. " if assets > MOST_ASSETS else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>\n"
        "<style>body{margin:1.5rem;font-family:system-ui,sans-serif}"
        "svg{width:100%;height:auto;max-width:1200px}</style></head>\n<body>\n"
        f"{picture}\n<p>{note}Each forecast stands over the tick that it is about.</p>\n"
        "</body>\n</html>\n"
    )
