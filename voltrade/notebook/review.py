"""The review of a run: what it did and why, what that cost, what a backtest over the same trades would have done, and
whether anything was altered.

`Review` reads the run's journal and computes; `notebooks/review.ipynb` shows it cell by cell, and `write` as one page
that opens without a network and without a kernel, for whoever finds a session whose notebook is gone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from voltrade import journal
from voltrade.config import Config, SignalSettings
from voltrade.data.tape import Tape, TapeReport
from voltrade.errors import JournalError, VoltradeError
from voltrade.model import BarResumePoint, EngineRestarted, History, ResumeState, Snapshot, Trades
from voltrade.report import charts, summary
from voltrade.report.collector import frames_of_facts
from voltrade.report.decision_reasons import reasons
from voltrade.report.figure_output import page_figure, page_script
from voltrade.report.frames import Frames
from voltrade.report.html import frame_table
from voltrade.report.run_reader import RunReader
from voltrade.report.statistics import statistics
from voltrade.research.backtest import backtest
from voltrade.runs import run_file as records
from voltrade.runs.listing import Run, list_runs, open_run, project_root
from voltrade.runs.replay import begun
from voltrade.runs.run_file import PAGE
from voltrade.runs.verify import DECISIONS, NOT_WHOLE
from voltrade.strategy.rule_file import KEPT

DECIDES_ALIKE = "The journal alone leads to the same decisions."
MOST_ROWS = 200
"""Rows of a table on the page; the frames and the journal have all."""


@dataclass(frozen=True, slots=True)
class Researched:
    """What a backtest over a run's trades did, or why there is none, and what to know when the two are compared."""

    frames: Frames | None
    notes: tuple[str, ...]


class Review:
    """A run, looked at as a whole. Everything comes from its journal; the record tells only how it ended.

    Attributes:
        frames: what happened, as far as the chain of hashes holds.
        config: the settings that it was begun with.
        problems: what can't be shown, a line each.

    Raises:
        JournalError: not even the first row of the journal holds.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.record = run.record
        self.problems: list[str] = []
        self._reader = RunReader(run.path)
        self.verification = run.verify()
        self._chain = self.verification.chain
        self._reader.poll(until=self._chain.seq)
        if not self._reader.start:
            raise JournalError(f"{run.name}: row 1: {self._chain.rule or 'must be a Start row'}")
        if not self._chain.ok:
            self.problems.append(f"nothing is shown of what follows row {self._chain.seq:,}")
        self.frames = self._reader.frames()
        self.config = self._config()

    def _config(self) -> Config:
        try:
            return begun(self._reader.path).config
        except VoltradeError as error:
            self.problems.append(str(error))
        # Without the rule its settings mean nothing; all others do.
        stated = self._reader.start["config"]
        known = {name: value for name, value in stated["signals"].items() if name in SignalSettings.model_fields}
        return Config.from_json(json.dumps({**stated, "signals": known}))

    # --- what was altered ------------------------------------------------------------------------------------------

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What of the run nothing here has looked at. That its events lead to its decisions is in `checks`."""
        return tuple(what for what in self.verification.unchecked if what != DECISIONS)

    @cached_property
    def checks(self) -> pd.DataFrame:
        """Whether the record is whole: its chain, its end, its rule file, and the decisions made from it anew."""
        return self.run.checks()

    @property
    def wrong(self) -> list[str]:
        """What was altered or lost, a line each; empty where the record is whole."""
        failed = self.checks.loc[~self.checks["ok"].fillna(True), "found"]
        return [*self.problems, *(f"{name}: {found}" for name, found in failed.items())]

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found to be altered or lost."""
        return not self.wrong

    @property
    def words(self) -> str:
        """The outcome, which promises no more than was checked; with what is wrong, a line each."""
        if self.wrong:
            return "\n".join([NOT_WHOLE, *self.wrong])
        return f"{self.verification.words} {DECIDES_ALIKE}"

    # --- what happened and why -------------------------------------------------------------------------------------

    @cached_property
    def signals(self) -> pd.DataFrame:
        """One row a signal: what the rule saw, what became of it, and how the trade that followed ended."""
        return signals(self.frames)

    @cached_property
    def every_bar(self) -> pd.DataFrame:
        """One row a bar with its prices and what was decided on it."""
        bars, decisions = self.frames.bars, self.frames.decisions
        values = decisions.drop(columns=["bar", "close"])
        why = pd.DataFrame({"why": pd.array(reasons(decisions), dtype="str")}, index=bars.index)
        shown = bars[["bar", "duration_s", "open", "high", "low", "close", "volume", "trade_count", "close_reason"]]
        return pd.concat([shown, values[["signal", "outcome"]], why, values.select_dtypes("float")], axis=1)

    # --- what a backtest would have done -----------------------------------------------------------------------------

    @cached_property
    def researched(self) -> Researched:
        """A backtest with the run's settings and rule over the trades that stand in its journal."""
        if not self.verification.ok:
            return Researched(None, ("no backtest: the journal's trades can't be trusted",))
        try:
            return self._research()
        except VoltradeError as error:
            return Researched(None, (f"no backtest: {error}",))

    def _research(self) -> Researched:
        start = begun(self._reader.path)
        history, trades, notes = _trades_of(self._reader.path)
        if not len(trades):
            return Researched(None, ("no backtest: the journal has no trades of the session",))
        first = next((row.fact for row in journal.read(self._reader.path, kind=Snapshot.__name__)), None)
        config = start.config if first is None else _on_account(start.config, first)
        found = TapeReport(len(trades), len(trades), int(trades.time[0]), int(trades.time[-1]))
        tape = Tape(trades, found, f"journal of {self.run.name}")
        done = backtest(tape, config, start.engine(), epoch=start.epoch, history=history, begin_s=0.0)
        ours, theirs = start.instrument, done.instrument
        if (ours.tick_size, ours.step_size) != (theirs.tick_size, theirs.step_size):
            return Researched(None, (f"no backtest: {ours.symbol}'s tick or step is not what backtests know of",))
        if start.config.session.mode != "sim":
            notes.append("the backtest's fills, latency, slippage and mark prices are the simulated exchange's")
        if (self.frames.operator["reason"] != "TAPE_END").any():
            notes.append("what persons and stop policies ordered is not repeated by the backtest")
        return Researched(done.frames(), tuple(notes))

    @cached_property
    def compared(self) -> pd.DataFrame:
        """One row a round trip of the run, the backtest, or both; empty without a backtest."""
        nothing = frames_of_facts(self.frames.instrument, [], [])
        return compare(self.frames, self.researched.frames or nothing)

    @property
    def agreement(self) -> str:
        """In one sentence, how far the backtest makes the run's round trips."""
        return agreement(self.compared)

    @cached_property
    def figures(self) -> pd.DataFrame:
        """Statistics of the run, beside those of the backtest where there is one."""
        columns = {"run": statistics(self.frames).table()["value"]}
        if self.researched.frames is not None:
            columns["backtest"] = statistics(self.researched.frames).table()["value"]
        return pd.DataFrame(columns)


def newest() -> Run | None:
    """The newest run of the project that has begun its journal; None where there is none."""
    for name in list_runs().index:
        folder = project_root() / "runs" / name
        if records.read(folder).get("begun"):
            return open_run(folder)
    return None


# --- tables ----------------------------------------------------------------------------------------------------------


def signals(run: Frames) -> pd.DataFrame:
    """Lay out every signal: its conditions, the gate that refused it or the entry that it became, and that trade's end.

    `slippage` is the entry's, in money, a cost negative; `net` is of the whole round trip.
    """
    decisions = run.since_begin(run.decisions)
    decided = decisions[decisions["signal"] != ""]
    table = decided[["bar", "signal"]].copy()
    table["why"] = pd.array(reasons(decided), dtype="str")
    table["outcome"] = decided["outcome"].replace("", "no order")
    details = run.refusals.drop_duplicates("bar", keep="last").set_index("bar")["detail"]
    entries = run.orders[run.orders["purpose"] == "ENTRY"].drop_duplicates("bar", keep="last").set_index("bar")
    trips = run.round_trips.drop_duplicates("bar", keep="last").set_index("bar")
    texts = [details.get(bar, "") or str(entries["text"].get(bar, "")) for bar in table["bar"]]
    table["detail"] = pd.array(texts, dtype="str")
    for name, column in (("entry_price", "average_price"), ("quantity", "filled"), ("slippage", "slippage")):
        table[name] = entries[column].reindex(table["bar"]).to_numpy()
    for column in ("exit_price", "exit_reason", "net", "r_multiple"):
        table[column] = trips[column].reindex(table["bar"]).to_numpy()
    table["exit_reason"] = table["exit_reason"].fillna("")
    return table


def compare(run: Frames, other: Frames) -> pd.DataFrame:
    """Lay a run's round trips beside a backtest's: those that began with the same bar and side are one row.

    `why` says of a trade that only one of the two made what the other did on that bar.
    """
    sides = [frames.round_trips.drop_duplicates(["bar", "side"]).set_index(["bar", "side"]) for frames in (run, other)]
    keys = sides[0].index.union(sides[1].index)
    ours, theirs = (side.reindex(keys) for side in sides)
    table = pd.DataFrame(index=ours.index)
    for name in ("entry_price", "exit_price", "exit_reason", "net"):
        table[f"{name}, run"], table[f"{name}, backtest"] = ours[name], theirs[name]
    table["net, difference"] = ours["net"] - theirs["net"]
    outcomes = [frames.decisions.drop_duplicates("bar").set_index("bar")["outcome"] for frames in (run, other)]
    table["why"] = [
        _why_not(outcomes[0], bar, "the run")
        if math.isnan(mine)
        else _why_not(outcomes[1], bar, "the backtest")
        if math.isnan(its)
        else ""
        for (bar, _), mine, its in zip(keys, ours["net"], theirs["net"], strict=True)
    ]
    for name in ("exit_reason, run", "exit_reason, backtest"):
        table[name] = table[name].fillna("")
    return table.reset_index("side")


def agreement(compared: pd.DataFrame) -> str:
    """Say in one sentence how far two columns of `compare` agree."""
    ours, theirs = (compared[f"net, {who}"].notna() for who in ("run", "backtest"))
    both = ours & theirs
    prices = [compared[f"{name}, run"] == compared[f"{name}, backtest"] for name in ("entry_price", "exit_price")]
    same = both & prices[0] & prices[1] & (compared["net, difference"] == 0)
    if compared.empty:
        return "Neither the run nor the backtest made a round trip."
    if same.all():
        return f"The backtest makes the same {len(same)} round trips, to the last digit."
    return (
        f"Of the run's {ours.sum()} round trips the backtest makes {same.sum()} to the last digit and "
        f"{(both & ~same).sum()} otherwise; {(ours & ~theirs).sum()} are the run's alone, {(theirs & ~ours).sum()} "
        "the backtest's alone."
    )


def _why_not(outcomes: pd.Series, bar: int, who: str) -> str:
    if bar not in outcomes.index:
        return f"{who} has no such bar"
    return f"{who}: {outcomes[bar] or 'no signal'}"


def _trades_of(path: Path) -> tuple[History, Trades, list[str]]:
    """A journal's trades: those before the account was first asked for, and those of the session, with what to know."""
    before: list[Trades] = []
    during: list[Trades] = []
    phases: list[BarResumePoint] = []
    notes = []
    traded = False
    for row in journal.read(path):
        if row.kind == Trades.__name__:
            (during if traded else before).append(row.fact)
        elif row.kind == Snapshot.__name__:
            traded = True
        elif row.kind == BarResumePoint.__name__ and not traded:
            phases.append(row.fact)
        elif row.kind == BarResumePoint.__name__:
            notes.append("the run took up its bars anew after a gap; from there on the backtest's bars are others")
        elif row.kind == ResumeState.__name__:
            notes.append(_went_on(row.fact))
        elif row.kind == EngineRestarted.__name__:
            notes.append("the run's engine was restarted; the backtest's was not")
    nothing = Trades.from_rows("", [])
    history = History(Trades.join(before) if before else nothing, phases[-1] if phases else None)
    return history, Trades.join(during) if during else nothing, list(dict.fromkeys(notes))


def _went_on(adoption: ResumeState) -> str:
    """Say what a run took over from the account's last one, which a backtest does not know of."""
    left = json.loads(adoption.state)["breaker"]
    lost, fallen = (_amount(left[name] - left["equity"]) for name in ("day_equity", "peak"))
    return (
        f"the run went on from an earlier one, with its position, cooldown and limits: {left['losses']} losing round "
        f"trips in a row, {left['trades']} begun that day, {max(lost, Decimal()):,.2f} lost of the day's opening "
        f"equity, {max(fallen, Decimal()):,.2f} below the peak; the backtest begins flat with none of these used, so "
        "what the run was refused by them are trades of the backtest alone"
    )


def _on_account(config: Config, first: Snapshot) -> Config:
    """The settings with the wallet and the fees that the run's account had when it was first asked for."""
    execution = config.execution.model_dump()
    execution |= {"wallet": _amount(first.wallet), "taker_fee": _amount(first.taker_fee_e8)}
    execution["maker_fee"] = _amount(first.maker_fee_e8)
    return config.model_copy(update={"execution": type(config.execution).model_validate(execution)})


def _amount(units: int) -> Decimal:
    return Decimal(units).scaleb(-8)


# --- the page --------------------------------------------------------------------------------------------------------


def write(run_dir: Path | str) -> Path:
    """Write `review.html` into a run's folder, whole or not at all; return its path.

    The page holds everything that it shows: it opens without a network, and asks for nothing.

    Raises:
        SessionError: the folder holds no run.
        JournalError: not even the first row of its journal holds.
    """
    review = Review(open_run(run_dir))
    text, path = page(review), review.run.path / PAGE
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
    return path


def page(review: Review) -> str:
    """The review as one page of HTML."""
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
    """Whether the record is whole."""
    if review.is_whole:
        return f"<p class='{'unproven' if review.verification.unproven else 'whole'}'>{escape(review.words)}</p>"
    lines = "".join(f"<li>{escape(line)}</li>" for line in review.wrong)
    return f"<div class='broken'>{escape(NOT_WHOLE)}<ul>{lines}</ul></div>"


def _cards(review: Review) -> str:
    """The figures that are looked for first."""
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
    """Title and pieces of each part of the page, in the order of what a reader asks."""
    run, config = review.frames, review.config
    prices, equity = charts.price_chart(run, config), charts.equity_chart(run, config)
    yield "What happened", _figure(prices, "prices"), _figure(equity, "equity")
    yield (
        "Signals, and what became of them",
        _words("Every signal with the conditions that fired, the gate that refused it or the entry that it became."),
        _table(review.signals),
        _figure(charts.refusals_chart(run, config), "refusals"),
        _table(summary.refusals_by_code(run)),
    )
    yield "Round trips", _table(run.round_trips, drop=["closed", "bar"])
    yield (
        "Orders and fills",
        _table(summary.orders_by_status(run)),
        _table(run.orders, drop=["order_id", "reduce_only", "reference_price", "answered", "updated"]),
        _table(run.fills, drop=["client_order_id"]),
    )
    words = _words("From what the prices gave at the moment of each decision down to what is left.")
    yield "Costs", words, _table(summary.costs(run), decimals=2)
    yield "What a backtest would have done", _research(review)
    yield (
        "Limits, alerts, orders of persons and stop policies",
        _words("Where each rule stands at the end (used), and the nearest it came to its limit (most used)."),
        _table(summary.breaker_distances(run, config.risk)),
        _named("changes of the breaker", run.breaker),
        _named("orders of persons, of stop policies and at the end of the session", run.operator),
        _named("alerts", run.alerts),
        _named("gaps in the trades", run.gaps),
    )
    words = _words(f"All {len(run.bars):,} are in the journal, and in frames/bars.parquet.")
    yield "Every bar", words, _table(review.every_bar)
    yield "Settings", _table(summary.settings_table(config)), _start_up(review), _rule(review)
    words = _words(f"Not checked: {'; '.join(review.unchecked)}.")
    files = _table(review.run.files(), decimals=1)
    yield "The record", _table(review.checks), words, files, _log(review)


def _research(review: Review) -> str:
    found = review.researched
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    words = _words("The run's settings and rule over the trades in its journal, by the backtest, from a flat account.")
    if found.frames is None:
        return f"<ul>{notes}</ul>"
    figure = _figure(charts.comparison_chart(review.frames, found.frames, review.config), "comparison")
    words += f"<ul>{notes}</ul>{_words(review.agreement)}"
    return f"{words}{figure}{_table(review.figures)}{_table(review.compared)}"


def _start_up(review: Review) -> str:
    checks = review.record.get("checks")
    return _named("at the start", pd.DataFrame(checks).set_index("item")) if checks else ""


def _rule(review: Review) -> str:
    """The rule file that the run traded, as its copy says."""
    folder = review.run.path / KEPT
    files = sorted(folder.rglob("*.py")) if review.config.session.rule else []
    return "".join(
        f"<h3>{escape(str(file.relative_to(folder)))}</h3><pre>{escape(file.read_text(errors='replace'))}</pre>"
        for file in files
    )


def _log(review: Review) -> str:
    text = review.run.log()
    return f"<h3>the engine's last words</h3><pre>{escape(text)}</pre>" if text else ""


def _words(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _named(name: str, frame: pd.DataFrame) -> str:
    return f"<h3>{escape(name)}</h3>{_table(frame)}"


def _table(frame: pd.DataFrame, drop: Sequence[str] = (), decimals: int = 4) -> str:
    return f"<div class='table'>{frame_table(frame, drop, decimals, MOST_ROWS)}</div>"


def _figure(figure: Any, name: str) -> str:
    return f"<figure>{page_figure(figure, name)}</figure>"


_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""What a browser lets the page do: run what stands in it, and ask nobody for anything."""

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
