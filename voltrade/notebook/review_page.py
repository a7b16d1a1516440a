"""The review of a run as one page of HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from voltrade.notebook.review import Review
from voltrade.report import charts, summary
from voltrade.report.figure_output import page_figure, page_script
from voltrade.report.html import frame_table
from voltrade.report.statistics import statistics
from voltrade.runs.listing import open_run
from voltrade.runs.run_file import PAGE
from voltrade.runs.verify import NOT_WHOLE
from voltrade.strategy.rule_file import COPY_FOLDER

MAX_ROWS = 200
"""Most rows of a table on the page; the frames and the journal have all rows."""


def write_review(run_dir: Path | str) -> Path:
    """Write `review.html` into a run's folder and return its path.

    The page contains everything that it shows, and opens without a network.

    Raises:
        SessionError: The folder has no run.
        JournalError: Not even the first row of its journal is valid.
    """
    review = Review(open_run(run_dir))
    text, path = review_page(review), review.run.path / PAGE
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
    return path


def review_page(review: Review) -> str:
    """Return the review as one page of HTML."""
    sections = list(_sections(review))
    title = escape(f"{review.run.name}: review")
    contents = "".join(f"<a href='#s{number}'>{escape(name)}</a>" for number, (name, *_) in enumerate(sections))
    parts = "".join(
        f"<section id='s{number}'><h2>{escape(name)}</h2>{''.join(pieces)}</section>"
        for number, (name, *pieces) in enumerate(sections)
    )
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{_STYLE}</style>{page_script()}</head>"
        f"<body><header><h1>{escape(review.run.name)}</h1>{_banner(review)}{_cards(review)}<nav>{contents}</nav></header>"
        f"<main>{parts}</main></body></html>"
    )


def _banner(review: Review) -> str:
    """Return the outcome of the checks."""
    if review.is_whole:
        return f"<p class='{'unproven' if review.verification.unproven else 'whole'}'>{escape(review.outcome)}</p>"
    lines = "".join(f"<li>{escape(line)}</li>" for line in review.wrong)
    return f"<div class='broken'>{escape(NOT_WHOLE)}<ul>{lines}</ul></div>"


def _cards(review: Review) -> str:
    """Return the most important figures."""
    record, figures, session = review.record, statistics(review.frames), review.config.session
    ended = record.get("end_reason") or ""
    cards = {
        "state": f"{review.run.state}{f': {ended}' if ended else ''}",
        "mode, symbol": f"{session.mode}, {session.symbol}",
        "from, UTC": f"{figures.started:%Y-%m-%d %H:%M}",
        "to, UTC": f"{figures.ended:%Y-%m-%d %H:%M}",
        "net of round trips": f"{figures.net:+,.2f} {figures.quote_asset}",
        "round trips": f"{figures.round_trips} ({figures.long_trips} long, {figures.short_trips} short)",
        "signals, refused": f"{figures.signals}, {figures.refusals}",
        "deepest drawdown": f"{figures.max_drawdown:,.2f} {figures.quote_asset}",
    }
    parts = (f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in cards.items())
    return f"<dl>{''.join(parts)}</dl>"


def _sections(review: Review) -> Iterator[tuple[str, ...]]:
    """Yield title and pieces of each section of the page."""
    run, config = review.frames, review.config
    prices, equity = charts.price_chart(run, config), charts.equity_chart(run, config)
    yield "What happened", _figure(prices, "prices"), _figure(equity, "equity")
    yield (
        "Signals, and what became of them",
        _paragraph("Every signal with its conditions, and the gate that refused it or the entry that followed."),
        _table(review.signal_table),
        _figure(charts.refusals_chart(run, config), "refusals"),
        _table(summary.refusals_by_code(run)),
    )
    yield "Round trips", _table(run.round_trips, drop=["closed", "bar", "at_risk"])
    yield (
        "Orders and fills",
        _table(summary.orders_by_status(run)),
        _table(run.orders, drop=["order_id", "reduce_only", "reference_price", "answered", "updated"]),
        _table(run.fills, drop=["client_order_id"]),
    )
    text = _paragraph("From what the prices gave at the moment of each decision down to what is left.")
    yield "Costs", text, _table(summary.costs(run), decimals=2)
    yield "What a backtest would have done", _backtest(review)
    yield (
        "Limits, alerts, operator commands and stop policies",
        _paragraph("How much of each limit was used at the end (used), and at most at any time (most used)."),
        _table(summary.breaker_distances(run, config.risk)),
        _named("changes of the breaker", run.breaker),
        _named("operator commands, also of stop policies and at the end of the session", run.operator),
        _named("alerts", run.alerts),
        _named("gaps in the trades", run.gaps),
    )
    text = _paragraph(f"All {len(run.bars):,} are in the journal, and in frames/bars.parquet.")
    yield "Every bar", text, _table(review.every_bar)
    yield "Settings", _table(summary.settings_table(config)), _start_up(review), _rule(review)
    text = _paragraph(f"Not checked: {'; '.join(review.unchecked)}.")
    files = _table(review.run.files(), decimals=1)
    yield "The record", _table(review.checks), text, files, _log(review)


def _backtest(review: Review) -> str:
    found = review.backtest
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    text = _paragraph(
        "A backtest over the trades in the journal, with the run's settings and rule, from a flat account."
    )
    if found.frames is None:
        return f"<ul>{notes}</ul>"
    figure = _figure(charts.comparison_chart(review.frames, found.frames, review.config), "comparison")
    text += f"<ul>{notes}</ul>{_paragraph(review.agreement)}"
    return f"{text}{figure}{_table(review.figures)}{_table(review.compared)}"


def _start_up(review: Review) -> str:
    checks = review.record.get("checks")
    return _named("at the start", pd.DataFrame(checks).set_index("item")) if checks else ""


def _rule(review: Review) -> str:
    """Return the code of the run's copy of its rule file."""
    folder = review.run.path / COPY_FOLDER
    files = sorted(folder.rglob("*.py")) if review.config.session.rule else []
    return "".join(
        f"<h3>{escape(str(file.relative_to(folder)))}</h3><pre>{escape(file.read_text(errors='replace'))}</pre>"
        for file in files
    )


def _log(review: Review) -> str:
    text = review.run.log()
    return f"<h3>the end of the engine's log</h3><pre>{escape(text)}</pre>" if text else ""


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _named(name: str, frame: pd.DataFrame) -> str:
    return f"<h3>{escape(name)}</h3>{_table(frame)}"


def _table(frame: pd.DataFrame, drop: Sequence[str] = (), decimals: int = 4) -> str:
    return f"<div class='table'>{frame_table(frame, drop, decimals, MAX_ROWS)}</div>"


def _figure(figure: Any, name: str) -> str:
    return f"<figure>{page_figure(figure, name)}</figure>"


_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content security policy: the page may run its own scripts, and load nothing from elsewhere."""

_STYLE = """
:root { color-scheme: light; --ink: #2b2d42; --faint: #8d99ae; --line: #e3e7ee; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #f7f8fa; font: 14px/1.5 Inter, Helvetica, Arial, sans-serif; }
header, main { max-width: 1500px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 20px; }
h1 { margin: 0 0 8px; font-size: 24px; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 18px; }
h3 { margin: 20px 0 6px; font-size: 14px; color: #5b6478; }
.whole, .unproven, .broken { margin: 0 0 14px; padding: 8px 14px; border-radius: 6px; }
.whole { background: #e3f4ee; color: #0b5a4f; }
.unproven { background: #fdf4dc; color: #6b4e00; }
.broken { background: #fbe5e8; color: #8a1c33; font-weight: 600; overflow-wrap: anywhere; }
.broken ul { margin: 4px 0 0; padding-left: 20px; font-weight: 400; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 10px; margin: 0 0 14px; }
dl div { padding: 10px 14px; background: white; border: 1px solid var(--line); border-radius: 8px; }
dt { color: var(--faint); font-size: 12px; }
dd { margin: 2px 0 0; font-size: 16px; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; padding: 8px 0 16px; }
nav a { color: #5b5f97; text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { margin: 0 0 18px; padding: 18px 20px; background: white; border: 1px solid var(--line); border-radius: 8px; }
section > p { margin: 0 0 10px; color: #5b6478; }
figure { margin: 0 0 14px; }
.table { max-height: 560px; margin: 0 0 14px; overflow: auto; }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #f0f2f6; font-weight: 600; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:hover { background: #f7f8fb; }
pre { max-height: 420px; padding: 12px; overflow: auto; background: #f7f8fa; font-size: 12px; }
@media print { .table, pre { max-height: none; } nav { display: none; } }
"""
