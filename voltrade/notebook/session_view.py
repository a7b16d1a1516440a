"""What a notebook shows of a session: progress while it starts, then status, prices and equity."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from IPython.display import HTML, display

from voltrade.config import RECORDED
from voltrade.engine.checks import Check
from voltrade.model import MONEY, Alert, EquityPoint, Refusal, RoundTrip, moment_text
from voltrade.report import charts
from voltrade.report.figure_output import LiveChart
from voltrade.report.html import facts_table, judged_table
from voltrade.report.run_reader import RunReader
from voltrade.runs.listing import Run

FOLLOWED_BARS = 300
"""Bars on the charts of a running session; the charts at its end show all."""


class SessionView:
    """Shows status, prices and equity of a running session, each in one output that is updated."""

    def __init__(self, run: Run, reader: RunReader) -> None:
        is_recorded = bool(os.environ.get(RECORDED))
        self._config = run.config
        self._reader = reader
        self._status = display(HTML("starting"), display_id=True)  # type: ignore[no-untyped-call]
        self._prices, self._equity = LiveChart(is_recorded), LiveChart(is_recorded)
        self._progress = 0.0
        self._drawn_bars = -1
        self._draw_after = 0.0

    def show(self, status: Mapping[str, Any], is_last: bool) -> None:
        """Update the status; draw the charts again after new bars, for at most a fifth of the time."""
        self._progress = max(self._progress, float(status.get("progress") or 0.0))
        if status.get("end_reason") == "TAPE_END":
            self._progress = 1.0
        page = f"<pre>{progress_bar(self._progress)}</pre>{status_table(self._reader, status)}"
        self._status.update(HTML(page))  # type: ignore[no-untyped-call]
        now = time.monotonic()
        bars = self._reader.collector.bar_count if self._reader.start else 0
        if bars and (is_last or (bars != self._drawn_bars and now >= self._draw_after)):
            self._draw()
            self._drawn_bars = bars
            self._draw_after = time.monotonic() + max(1.5, 4 * (time.monotonic() - now))

    def _draw(self) -> None:
        run = self._reader.frames(last_bars=FOLLOWED_BARS)
        self._prices.draw(charts.price_chart(run, self._config, FOLLOWED_BARS))
        self._equity.draw(charts.equity_chart(run, self._config))


def status_table(reader: RunReader, status: Mapping[str, Any]) -> str:
    """Return the current status as an HTML table."""
    rows: dict[str, Any] = {"state": status["state"]}
    if status.get("end_reason"):
        rows["state"] = f"{status['state']}: {status['end_reason']}"
    if reader.time:
        rows["time"] = moment_text(reader.time)
    if reader.start:
        rows |= _counts(reader)
    if status.get("paused"):
        rows["entries"] = f"paused: {status['paused']}"
    if status.get("breaker"):
        rows["breaker"] = status["breaker"]
    if status.get("error"):
        rows["error"] = status["error"]
    return facts_table(rows)


def startup_table(checks: Iterable[Mapping[str, Any]]) -> str:
    """Return the start-up table of a refused start as HTML: first the rows that refused it, with what they must be."""
    rows = [
        (_VERDICTS[row.mark], [row.item, row.found, "" if row.mark == "ok" else row.wanted])
        for row in map(Check.of, checks)
    ]
    return judged_table(["item", "found", "must be"], rows)


_VERDICTS: Mapping[str, str] = {"ok": "ok", "~~": "differs", "!!": "failed"}


def _counts(reader: RunReader) -> dict[str, Any]:
    collector = reader.collector
    quote = collector.instrument.quote_asset
    trips, points = collector.notes(RoundTrip), collector.notes(EquityPoint)
    rows: dict[str, Any] = {"bars": f"{collector.bar_count:,}"}
    if points:
        last = points[-1]
        rows["position"] = f"{collector.instrument.quantity(last.position):+} {collector.instrument.base_asset}"
        rows["equity"] = f"{last.equity / MONEY:,.2f} {quote} (valued at {last.valued_at})"
    rows["round trips"] = f"{len(trips)}, net {sum(trip.net for trip in trips) / MONEY:+,.2f} {quote}"
    rows["refused signals"] = f"{len(collector.notes(Refusal)):,}"
    if alerts := collector.notes(Alert):
        rows["last alert"] = f"{alerts[-1].code}: {alerts[-1].text}"
    rows["journal"] = f"{reader.seq:,} rows, head {reader.head[:16]}…"
    return rows


def progress_bar(part: float, width: int = 50) -> str:
    """Return a progress bar as text; `part` is from 0 to 1."""
    done = round(min(max(part, 0.0), 1.0) * width)
    return f"{'█' * done}{'░' * (width - done)} {part:4.0%}"


class StartupLine:
    """A line with the progress of a start or of another wait; nothing is displayed before it has a text."""

    def __init__(self) -> None:
        self._line: Any = None
        self._shown = ""

    def update(self, text: str) -> None:
        """Show a text in place of the one before."""
        if text == self._shown:
            return
        self._shown = text
        page = HTML(f"<pre>{escape(text)}</pre>")  # type: ignore[no-untyped-call]
        if self._line is None:
            self._line = display(page, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._line.update(page)
