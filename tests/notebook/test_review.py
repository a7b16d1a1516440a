"""A review tells what a run did, what a backtest would have done, and what was altered; its page opens anywhere."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.builders import an_instrument
from support.made_run import made_run
from support.notebooks import executed_here
from support.sessions import run_engine
from test_journal import edit
from test_listing import MADE, Writer
from test_summary import a_bar, a_trip, an_intent, left_behind, run_of

import voltrade
from voltrade import journal
from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.data.tape import Tape, load_tape
from voltrade.errors import JournalError, SessionError
from voltrade.journal.bodies import PLAIN
from voltrade.model import (
    Alert,
    BarResumePoint,
    BreakerChange,
    EngineRestarted,
    History,
    Operator,
    OrderIntent,
    Outcome,
    Purpose,
    Refusal,
    Reply,
    Side,
    Trades,
)
from voltrade.notebook import review, review_page, review_tables, run_backtest
from voltrade.runs import run_file
from voltrade.runs.listing import open_run
from voltrade.simulated.symbols import shipped_instrument
from voltrade.tape_loop import warm_up

SETTINGS: dict[str, Any] = {
    **{"seed": 7, "hours": 5.0, "threshold": 15, "cooldown_bars": 1, "take_profit_atr": 2.0},
    **{"ema_fast": 5, "ema_slow": 13, "rsi_length": 7, "atr_length": 7},
}


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session over the synthetic tape, by the engine; it begins an hour into the tape, with that hour as history."""
    run = tmp_path_factory.mktemp("runs") / "traded"
    run_engine(run, **SETTINGS, begin_s=3_600.0)
    return run


@pytest.fixture
def run(traded: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be tampered with."""
    shutil.copytree(traded, tmp_path / "traded", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "traded"


# --- what happened, and why ------------------------------------------------------------------------------------------


def test_every_signal_is_told_of_with_what_became_of_it(traded: Path) -> None:
    looked = review.Review(open_run(traded))
    frames, table = looked.frames, looked.signal_table
    begun = frames.decisions.index >= pd.Timestamp(frames.beginning.time, unit="ms", tz="UTC")
    assert len(table) == (frames.decisions["signal"][begun] != "").sum() > 20
    assert set(table["outcome"]) >= {"entry FILLED", "refused: IN_POSITION"}
    assert not (table["outcome"] == "no order").any()
    refused = table[table["outcome"].str.startswith("refused")].set_index("bar")
    for bar, detail in zip(frames.refusals["bar"], frames.refusals["detail"], strict=True):
        assert refused.loc[bar, "detail"] == detail
    entered = table[table["outcome"] == "entry FILLED"].set_index("bar")
    trips = frames.round_trips.set_index("bar")
    assert entered["net"].to_dict() == trips["net"].to_dict()
    assert entered["exit_reason"].to_dict() == trips["exit_reason"].to_dict()
    assert entered["slippage"].sum() == pytest.approx(
        frames.orders.loc[frames.orders["purpose"] == "ENTRY", "slippage"].sum()
    )
    # Without a trigger the built-in rule has no signal.
    assert table["why"].str.contains("ema_cross|bollinger_breakout").all()


def test_what_the_exchange_answered_stands_beside_a_signal() -> None:
    decision = {"ready": True, "signal": 1, "ema_cross": 1, "rsi_long": True, "vwap_long": False, "vwap_short": False}
    intent = an_intent("e", Purpose.ENTRY, Side.BUY, 100, bar=0)
    answer = Reply(intent.time, "submit", "XUSDT", "e", False, Outcome.REFUSED, -2019, "Margin is insufficient.")
    run = run_of(intent, answer, bars=[a_bar(0, 1_000, decision=decision)])
    (row,) = review_tables.signal_table(run).to_dict("records")
    assert (row["outcome"], row["detail"]) == ("entry REJECTED", "Margin is insufficient.")
    assert row["why"] == "ema_cross +1 · vwap_long no", "filters of the other side are none of its business"


def test_every_bar_is_there_with_what_the_rule_saw(traded: Path) -> None:
    looked = review.Review(open_run(traded))
    assert len(looked.every_bar) == len(looked.frames.bars)
    assert {"rsi", "atr", "ema_fast", "vwap", "why", "outcome"} <= set(looked.every_bar)


# --- a backtest over the same trades ---------------------------------------------------------------------------------


def test_the_backtest_of_a_lockstep_session_is_the_session(traded: Path) -> None:
    looked = review.Review(open_run(traded))
    found = looked.backtest.frames
    assert found is not None
    count = len(looked.frames.round_trips)
    assert looked.agreement == f"The backtest makes the same {count} round trips, to the last digit."
    assert count > 5
    assert (looked.compared["net, difference"] == 0).all()
    assert looked.backtest.notes == ()
    assert (looked.figures["run"] == looked.figures["backtest"]).all()
    pd.testing.assert_frame_equal(found.decisions, looked.frames.decisions)
    history, during, _ = run_backtest._trades_of(traded / "journal.db")
    assert len(history.trades) > 1_000
    assert int(history.trades.id[-1]) + 1 == int(during.id[0])


def test_trades_that_only_one_of_the_two_made_are_explained() -> None:
    bars = [a_bar(number, 1_000) for number in range(4)]
    trips = [a_trip(1, 10, bar_number=0), a_trip(2, -5, bar_number=1), a_trip(3, 7, bar_number=2)]
    ours = run_of(*trips[:2], Refusal(0, "XUSDT", 2, Side.BUY, "COOLDOWN", "wait"), bars=bars)
    theirs = run_of(trips[0], a_trip(2, -4, bar_number=1), trips[2], a_trip(9, 1, bar_number=8), bars=bars)
    table = review_tables.compare(ours, theirs)
    assert list(table.index) == [0, 1, 2, 8]
    assert table["net, difference"].fillna(0).to_list() == [0, -1, 0, 0]
    assert table["why"].to_list() == ["", "", "the run: refused: COOLDOWN", "the run has no such bar"]
    assert review_tables.agreement(table) == (
        "Of the run's 2 round trips the backtest makes 1 to the last digit and 1 otherwise; "
        "0 are the run's alone, 2 the backtest's alone."
    )
    other_way = review_tables.compare(theirs, ours)
    assert other_way["why"].to_list()[2] == "the backtest: refused: COOLDOWN"
    assert review_tables.compare(run_of(), run_of()).empty
    assert review_tables.agreement(review_tables.compare(run_of(), run_of())).startswith("Neither")


def test_what_came_before_the_session_is_history(tmp_path: Path) -> None:
    """Trades of before the account was asked for warm the backtest up; they are not traded."""
    config = Config.from_parameters(SETTINGS)
    whole = load_tape(config.session, shipped_instrument("BTCUSDT"))
    cut = len(whole.trades) // 3
    part = Tape(whole.trades[cut:], whole.report, whole.source)
    late = voltrade.backtest(part, config, history=History(whole.trades[:cut]))
    full = voltrade.backtest(whole, config)
    assert late.bars.tobytes() == full.bars.tobytes()
    assert late.bar_decisions.tobytes() == full.bar_decisions.tobytes()
    entries = [fact for fact in late.facts if isinstance(fact, OrderIntent)]
    assert min(fact.time for fact in entries) >= int(whole.trades.time[cut])
    assert {(t.bar_number, t.net) for t in late.trips} & {(t.bar_number, t.net) for t in full.trips}


def test_where_a_days_bars_stood_is_told_before_the_trades() -> None:
    block = Trades.from_rows("BTCUSDT", [(number, 800_000, 1, number, False) for number in (5, 6, 7)])
    phase = BarResumePoint(1, "BTCUSDT", 20_458, 3, 7, 5)
    seen: list[Any] = []

    def handle(event: Any) -> tuple[int, list[Any]]:
        seen.append(event)
        return 2 if len(seen) == 2 else 1, []

    warm_up(handle, History(block, phase))
    assert seen[0] is phase
    assert [trades.id.tolist() for trades in seen[1:]] == [[5, 6, 7], [7]]


def test_what_a_backtest_cannot_repeat_is_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "runs/today")
    block = Trades.from_rows("BTCUSDT", [(number, 800_000, 1, 1_767_643_200_000 + number, False) for number in (5, 6)])
    at = int(block.time[0])
    phase = BarResumePoint(at, "BTCUSDT", 20_458, 3, 7, 5)
    config = Config.from_parameters(hours=0.1)
    tape = load_tape(config.session, shipped_instrument("BTCUSDT"))
    made_by_the_exchange = voltrade.backtest(tape, config, path="events").facts
    snapshot = next(fact for fact in made_by_the_exchange if type(fact).__name__ == "Snapshot")
    left = left_behind(9_830, day_equity=10_000, losses=4, trades=9)
    facts = [
        phase,
        block[:1],
        left,
        snapshot,
        block[1:],
        EngineRestarted(at),
        phase,
        phase,
    ]
    writer.write([(at, fact) for fact in facts])
    writer.journal.close()
    history, during, notes = run_backtest._trades_of(writer.folder / "journal.db")
    assert history.resume_point == phase
    assert (history.trades.id.tolist(), during.id.tolist()) == ([5], [6])
    assert [note.split(";")[0] for note in notes] == [
        "the run went on from an earlier one, with its position, cooldown and limits: 4 losing round trips in a row, 9 "
        "begun that day, 170.00 lost of the day's opening equity, 170.00 below the peak",
        "the run's engine was restarted",
        "the run took up its bars anew after a gap",
    ]
    config = run_backtest._on_account(Config(), snapshot)
    assert float(config.execution.wallet) == snapshot.wallet / 1e8
    assert float(config.execution.taker_fee) == snapshot.taker_fee_e8 / 1e8


# --- what was altered ------------------------------------------------------------------------------------------------


def test_a_run_that_is_whole_says_so(traded: Path) -> None:
    looked = review.Review(open_run(traded))
    assert looked.is_whole, looked.wrong
    assert list(looked.checks.index) == ["end", "rows", "head", "parameters", "rule", "notebook", "replay"]
    # No notebook lies beside it, and the page promises no more than that allows.
    assert looked.outcome == (
        "Whole as far as it goes: no notebook beside the run, so nothing outside its folder names its head. "
        "The journal alone leads to the same decisions."
    )
    text = review_page.review_page(looked)
    assert escape(looked.outcome) in text
    assert "Not checked: of run.json: " in text


def test_rows_that_were_altered_are_named_and_nothing_is_told_from_them(run: Path) -> None:
    """A loss is made a win, past the triggers: the page says so, and shows only what stands before."""
    whole = review.Review(open_run(run)).frames
    lost = [row for row in journal.read(run / "journal.db", kind="RoundTrip") if b'"net":-' in row.body][1]
    gained = PLAIN + lost.body.replace(b'"net":-', b'"net":')
    edit(run / "journal.db", f"UPDATE journal SET body = x'{gained.hex()}' WHERE seq = {lost.seq}")
    looked = review.Review(open_run(run))
    shown = looked.frames.round_trips
    assert 0 < len(shown) < len(whole.round_trips)
    pd.testing.assert_frame_equal(shown, whole.round_trips.iloc[: len(shown)])
    assert not looked.is_whole
    assert any("hash must be that of the previous hash" in line for line in looked.wrong)
    assert looked.backtest.frames is None
    text = review_page.write_review(run).read_text()
    assert "Not whole: something was altered" in text
    assert "nothing is shown of what follows row" in text
    assert "Whole as far" not in text


def test_rows_that_were_cut_off_are_missed(run: Path) -> None:
    edit(run / "journal.db", "DELETE FROM journal WHERE seq > (SELECT max(seq) - 30 FROM journal)")
    looked = review.Review(open_run(run))
    assert any(line.startswith("head: ") and "which no row has" in line for line in looked.wrong)
    assert any("the journal has no such last row" in line for line in looked.wrong)
    assert len(looked.frames.round_trips) > 0


def test_replay_misses_the_last_row(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fault case G1: the end alone leads to no decision, so its lack made no difference."""
    assert main(["replay", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Whole as far as it goes: ")
    edit(run / "journal.db", "DELETE FROM journal WHERE kind = 'End'")
    assert main(["replay", str(run)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert " 0 differences" in told[-2]
    assert told[-1].startswith("Not whole")


def test_a_run_that_was_killed_is_reviewed(run: Path) -> None:
    edit(run / "journal.db", "DELETE FROM journal WHERE kind = 'End'")
    facts = {name: value for name, value in run_file.read(run).items() if name not in ("head", "rows", "end_reason")}
    run_file.write(run, facts | {"state": "running"})
    looked = review.Review(open_run(run))
    assert looked.is_whole, looked.wrong
    assert "killed: no end was written, so rows missing at the end would not be missed" in looked.outcome
    assert "killed" in review_page.write_review(run).read_text()


def test_a_journal_whose_first_row_does_not_hold_is_not_reviewed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run / "journal.db", "UPDATE journal SET time = time + 1 WHERE seq = 1")
    with pytest.raises(JournalError, match="row 1: hash must be"):
        review.Review(open_run(run))
    assert main(["review", str(run)]) == 2
    assert "review: " in capsys.readouterr().err
    assert not (run / "review.html").exists()
    with pytest.raises(SessionError):
        review_page.write_review(tmp_path / "nothing")


def test_the_notebook_tells_the_same(traded: Path, tmp_path: Path) -> None:
    executed = executed_here("review.ipynb", tmp_path, run=str(traded))
    outputs = [output for cell in executed.values() for output in cell["outputs"]]
    printed = "".join(output.get("text", "") for output in outputs)
    looked = review.Review(open_run(traded))
    assert looked.outcome in printed
    assert looked.agreement in printed
    figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(figures) == 4
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(tables) > 12
    assert not any("FigureWidget" in str(output) for output in outputs)


# --- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within not in ("script", "style"):
            self.texts.append(data)


def test_the_page_holds_all_that_it_shows(traded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", str(traded)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == traded / "review.html"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not (traded / "review.new").exists()
    page = Page(path.read_text())
    assert not [tag for tag, attributes in page.tags if "src" in attributes or tag in ("link", "iframe", "img")]
    hrefs = [str(attributes["href"]) for tag, attributes in page.tags if "href" in attributes]
    assert len(hrefs) > 5
    assert all(href.startswith("#") for href in hrefs)
    assert path.read_text().count("plotly.js v") == 1  # the program that draws, once
    text = " ".join(page.texts).replace("_ ", "_")  # a code may be broken after it
    for word in (
        "What a backtest would have done",
        run_file.read(traded)["head"],
        "TAPE_END",
        "IN_POSITION",
        "ema_fast 5",
    ):
        assert word in text


HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>\"'"


OUR_TAGS = {
    "html",
    "wbr",
    "span",
    "head",
    "meta",
    "title",
    "style",
    "script",
    "body",
    "header",
    "h1",
    "p",
    "div",
    "ul",
    "li",
    "dl",
    "dt",
    "dd",
} | {"nav", "a", "main", "section", "h2", "h3", "figure", "table", "thead", "tbody", "tr", "th", "td", "pre"}


def hostile_run(folder: Path) -> Path:
    """A run in which every text that comes from outside tries to be a program."""
    writer = Writer(folder, tape=HOSTILE)
    trip = next(fact for fact in MADE.facts if type(fact).__name__ == "RoundTrip")
    bar = MADE.bars[60]["close_time"]
    intent = an_intent("x", Purpose.ENTRY, Side.BUY, 1, bar=61)
    facts = [
        Refusal(bar, "BTCUSDT", 60, Side.BUY, HOSTILE, HOSTILE),
        Alert(bar, HOSTILE, HOSTILE),
        Operator(bar, "pause", HOSTILE),
        BreakerChange(bar, HOSTILE, HOSTILE, HOSTILE, 1, 1, 1),
        replace(intent, reason=HOSTILE, order=replace(intent.order, client_order_id=HOSTILE)),
        Reply(bar, "submit", "BTCUSDT", HOSTILE, False, Outcome.REFUSED, -1, HOSTILE),
        replace(trip, exit_reason=HOSTILE),
    ]
    writer.write([*MADE.rows, *((bar, fact) for fact in facts)])
    writer.end()
    writer.update(end_reason=HOSTILE, checks=[{"item": HOSTILE, "found": HOSTILE, "wanted": "", "ok": True}])
    (folder / "engine.log").write_text(HOSTILE)
    (folder / HOSTILE.replace("/", "_")).write_text("")
    writer.journal.close()
    return folder


def test_what_others_wrote_is_shown_as_text_never_as_markup(tmp_path: Path) -> None:
    path = review_page.write_review(hostile_run(tmp_path / "runs" / "<b>today<b>"))
    page = Page(path.read_text())
    assert {tag for tag, _ in page.tags} == OUR_TAGS
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert sum(HOSTILE in text for text in page.texts) >= 8
    # Within scripts plotly writes what could end them in another way.
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", path.read_text(), re.DOTALL)
    assert len(scripts) == 1 + 3  # the program, and the data of each figure
    assert not [script for script in scripts[1:] if "<script" in script or "<img" in script]


def test_a_long_run_gives_a_page_of_bounded_size(tmp_path: Path) -> None:
    made = made_run(an_instrument(), bar_count=7_000)
    writer = Writer(tmp_path / "runs/long")
    writer.write(made.rows)
    writer.end()
    writer.journal.close()
    text = review_page.write_review(writer.folder).read_text()
    assert len(text) < 16_000_000
    assert "last 5,000 of 7,000 bars" in text
    assert "… 6,800 more rows …" in text
    assert max(len(re.findall("<tr>", table)) for table in text.split("<table")) <= review_page.MAX_ROWS + 2


def test_the_newest_run_that_has_begun_is_chosen(traded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert review.newest() is None
    (tmp_path / "runs").mkdir()
    assert review.newest() is None
    for name, created, begun in (
        ("old", "2026-01-01", True),
        ("new", "2026-01-02", True),
        ("newer", "2026-01-03", False),
    ):
        (tmp_path / "runs" / name).mkdir()
        run_file.write(tmp_path / "runs" / name, {"state": "ended", "created": created, "begun": begun})
    found = review.newest()
    assert found is not None
    assert found.path == tmp_path / "runs/new"
