"""Whole sessions for tests: papermill or an engine runs one, then its run is held against the venue's own truth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

from support.forked import Forked, ForkedVenue
from support.oracles import Row, decimal_bars

from voltrade import journal
from voltrade.data.tape import load_tape
from voltrade.model import CloseReason, Instrument, OrderIntent, OrderUpdate, Refusal, Reply, RoundTrip
from voltrade.research.backtest import backtest
from voltrade.runs.replay import INSTRUMENT, replay
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import keep_rule, read_parameters, signal_engine_of

ROOT = Path(__file__).resolve().parents[2]


def run_papermill(
    notebook: Path, output: Path, log: Path, environment: dict[str, str] | None = None, **parameters: object
) -> Forked:
    """Run a notebook by papermill's command line, as a person would."""
    given = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    words = (str(notebook), str(output), *given, "--no-progress-bar")
    return Forked(*words, log=log, program="papermill", environment=environment)


def run_notebook(output: Path, **parameters: object) -> str:
    """Run the live notebook to its end; return what papermill printed."""
    log = output.with_suffix(".log")
    assert run_papermill(ROOT / "notebooks/live.ipynb", output, log, **parameters).wait(280) == 0, log.read_text()[
        -3000:
    ]
    return log.read_text()


def run_engine(run: Path, **parameters: object) -> None:
    """Run an engine alone on a session in a new folder, to its end: as that of a notebook, in seconds less."""
    run.mkdir(mode=0o700, parents=True)
    config = read_parameters(parameters)
    given = {
        name: value for name, value in config.parameters().items() if name not in type(config.signals).model_fields
    }
    (run / "venue.json").write_text(json.dumps(given | {"rule": ""}))
    words = ("--parameters", str(run / "venue.json"), "--log", str(run / "venue"))
    with closing(ForkedVenue(*words, folder=run)) as venue:
        kept = {"parameters": {**config.parameters(), "venue": venue.rest}, **keep_rule(config, run)}
        (run / "run.json").write_text(json.dumps({**kept, "epoch": run.name, "state": "starting"}))
        engine = Forked("engine", str(run), log=run / "engine.log")
        assert engine.wait(280) == 0, (run / "engine.log").read_text()[-3000:]


@dataclass(frozen=True)
class Truth:
    """The venue's ground truth, read by nothing of voltrade's."""

    rows: list[dict[str, Any]]

    @staticmethod
    def of(run: Path) -> Truth:
        lines = (run / "venue/truth.jsonl").read_text().splitlines()
        return Truth([json.loads(line) for line in lines])

    def kind(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == kind]

    @property
    def round_trips(self) -> list[dict[str, Any]]:
        """Stretches between flat and flat: side, and what closed it."""
        trips: list[dict[str, Any]] = []
        before = Decimal(0)
        for fill in self.kind("fill"):
            after = Decimal(fill["position"])
            if before == 0:
                trips.append({"side": fill["side"]})
            if after == 0:
                trips[-1]["closed_by"] = fill["origin"] or "MARKET"
            before = after
        return trips


def holders_of(canary: str, folder: Path) -> list[Path]:
    """The files that hold a text which nobody may see."""
    return [path for path in folder.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]


def facts_of(run: Path) -> list[Any]:
    return [
        row.fact
        for row in journal.read(run / "journal.db")
        if row.kind not in ("Start", "Bar", "End", "Trades", "Market")
    ]


def bars_of(run: Path) -> list[dict[str, Any]]:
    return [row.fact for row in journal.read(run / "journal.db") if row.kind == "Bar"]


BAR_FIELDS = (
    *("day", "number", "open_time", "close_time", "first_trade_id", "last_trade_id", "open", "high", "low", "close"),
    *("volume", "taker_buy_volume", "notional", "trade_count", "close_reason", "tainted"),
)
"""Fields of a bar that the fold in decimals has too."""


def check_bars_of(run: Path, rows: Iterable[Row], instrument: Instrument, threshold: Decimal) -> int:
    """Hold every field of every bar of a run against a fold of its trades in decimals; return how many there are."""
    tick, step = instrument.tick_size, instrument.step_size
    expected = decimal_bars(rows, "base", threshold, "utc_day", tick, step)
    if expected[-1]["close_reason"] == "OPEN":
        expected.pop()
    units = dict.fromkeys(("open", "high", "low", "close"), tick)
    units |= {"volume": step, "taker_buy_volume": step, "notional": tick * step}
    ours = [{name: bar[name] * units.get(name, 1) for name in BAR_FIELDS} for bar in bars_of(run)]
    for bar in ours:
        bar["close_reason"] = CloseReason(bar["close_reason"]).name
    assert ours == [{name: bar[name] for name in BAR_FIELDS} for bar in expected]
    return len(ours)


def check_run(run: Path) -> Counter[str]:
    """Hold a run against the venue's truth, its own replay and the backtest; return the refusals by code."""
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "ended", record
    sealed = journal.verify(run / "journal.db")
    assert sealed.ok, sealed
    assert sealed.head == record["head"]

    again = replay(run / "journal.db")
    assert again.differences == 0, again.shown

    facts = facts_of(run)
    truth = Truth.of(run)
    _check_fills(run, facts, truth)
    _check_backtest(run, facts)
    return Counter(fact.code for fact in facts if isinstance(fact, Refusal))


def _check_fills(run: Path, facts: list[Any], truth: Truth) -> None:
    start = next(journal.read(run / "journal.db")).fact
    instrument = INSTRUMENT.validate_python(start["instrument"])
    ours = [f for f in facts if isinstance(f, OrderUpdate) and f.trade_id]
    theirs = truth.kind("fill")
    assert [(f.time, f.trade_id, f.client_order_id, f.side.name, *_amounts(f, instrument)) for f in ours] == [
        (
            f["time"],
            f["trade_id"],
            f["client_order_id"],
            f["side"],
            *(Decimal(f[name]) for name in ("price", "quantity", "fee", "realised")),
        )
        for f in theirs
    ]
    # Nothing is left open, and the wallet is what all fills make of it, counted here in decimals.
    assert sum(Decimal(f["quantity"]) * (1 if f["side"] == "BUY" else -1) for f in theirs) == 0
    wallet = Decimal(truth.kind("start")[0]["wallet"])
    wallet += sum(Decimal(f["price"]) * Decimal(f["quantity"]) * (-1 if f["side"] == "BUY" else 1) for f in theirs)
    wallet -= sum(Decimal(f["fee"]) for f in theirs)
    assert Decimal(truth.kind("account")[-1]["wallet"] if theirs else truth.kind("start")[0]["wallet"]) == wallet
    rate = Decimal(truth.kind("start")[0]["taker_fee_e8"]).scaleb(-8)
    for fill in theirs:
        exact = Decimal(fill["price"]) * Decimal(fill["quantity"]) * rate
        assert Decimal(fill["fee"]) == exact.quantize(Decimal("1e-8"), ROUND_HALF_EVEN)
    trips = [f for f in facts if isinstance(f, RoundTrip)]
    assert len(trips) == len(truth.round_trips)
    start_wallet = Decimal(truth.kind("start")[0]["wallet"])
    assert sum(Decimal(trip.net).scaleb(-8) for trip in trips) == wallet - start_wallet
    # Every order at the exchange was an intent in the journal first, and all have ended.
    placed = {row["client_order_id"] for row in truth.kind("accepted") if row["action"].startswith("place")}
    assert placed == {f.order.client_order_id for f in facts if isinstance(f, OrderIntent)} - {
        f.client_order_id for f in facts if isinstance(f, Reply) and f.action == "submit" and f.outcome != "ACCEPTED"
    }
    last: dict[int, str] = {}
    unfilled: dict[int, Decimal] = {}
    for row in truth.rows:
        if row["kind"] == "order":
            last[row["order_id"]] = row["status"]
            unfilled.setdefault(row["order_id"], Decimal(row["quantity"]))
        elif row["kind"] == "algo":
            last[-row["algo_id"]] = row["status"]
        elif row["kind"] == "fill":
            unfilled[row["order_id"]] -= Decimal(row["quantity"])
            if unfilled[row["order_id"]] == 0:
                last[row["order_id"]] = "FILLED"
    assert set(last.values()) <= {"FILLED", "CANCELED", "EXPIRED", "FINISHED", "REJECTED"}


def _amounts(fill: OrderUpdate, instrument: Any) -> tuple[Decimal, ...]:
    money = (Decimal(amount).scaleb(-8) for amount in (fill.fee, fill.realised))
    return (instrument.price(fill.last_price), instrument.quantity(fill.last_quantity), *money)


DECISIONS = (OrderIntent, Refusal, RoundTrip)


def _check_backtest(run: Path, facts: list[Any]) -> None:
    """The backtest over the same tape makes the same decisions and fills, one by one."""
    record = json.loads((run / "run.json").read_text())
    config = read_parameters(record["parameters"], run=run)
    instrument = shipped_instrument(config.session.symbol)
    played = load_tape(config.session, instrument)

    def decisions(those: list[Any]) -> list[Any]:
        fills = (f for f in those if isinstance(f, OrderUpdate) and f.trade_id)
        # The wire tells an average price in place of the exact cumulative notional.
        return [f for f in those if isinstance(f, DECISIONS)] + [replace(f, filled_notional=0) for f in fills]

    for path in ("events", "compiled"):
        rule = signal_engine_of(config, instrument, run)
        research = backtest(played, config, rule, epoch=record["epoch"], path=path)
        found = decisions(research.facts)
        if path == "events":
            assert decisions(facts) == found
        for kind in (*DECISIONS, OrderUpdate):  # the compiled path tells one kind after the other
            assert [f for f in decisions(facts) if type(f) is kind] == [f for f in found if type(f) is kind]
        assert len(bars_of(run)) == len(research.bars)
