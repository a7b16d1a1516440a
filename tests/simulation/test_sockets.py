"""The simulator against what it stands for: the same plans as real processes over sockets come to the same end.

Some twenty sessions of a minute, a trade a second, most with a fault that both worlds can express. Position, open
orders and intents (id, purpose, side, quantity, trigger price, in order) must be the same, and what struck.

What the plans share, so that no decision hangs on milliseconds, nor on seconds of a busy machine: the price stands
still but for steps at times when nothing else happens, and takers buy and sell in turn at two prices, so that an order
fills at the same price however late it comes; each trade is large enough for any order; and the rule enters by the
number of the day's bar, long after the engines of both worlds are up.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.real_sessions import prepare, real_venue

from simulation.evidence import JournalRow, Json, read_journal
from simulation.plans import RULE, Plan
from simulation.reading import VenueBooks
from simulation.scenario import QUICK, at, play
from simulation.tapes import path_tape
from voltrade.engine import ctl
from voltrade.model import DAY_MS, Trades
from voltrade.runs.run_file import read as read_record

BEGIN_S = 120.0
"""History."""
UP_S = 60.0
"""What engines have from the venue's opening to be up, on a machine that starts ten processes at once."""
LAST_S = 56.0
"""When an operator ends the session, seconds after `UP_S`."""
END_S = BEGIN_S + UP_S + 150.0
AT_ONCE = 5
BAR_TRADES, FIRST_BAR, EVERY = 5, 36, 9
"""Bar 36 closes 4 s after `UP_S`, bar 45 45 s later: the only ones that may enter."""
SETTINGS: Json = {
    **QUICK,
    **{"rule": RULE, "first_bar": FIRST_BAR, "every": EVERY, "threshold": BAR_TRADES, "cooldown_bars": 0},
    **{"duration_s": 600.0, "order_stale_s": 5.0, "stop_atr": 5.0, "take_profit_atr": 5.0, "latency_ms": 50},
    **{"on_interrupt": "flatten", "begin_s": BEGIN_S, "mark_interval_s": 1},
}
STILL = 80_000.0
PROTECT: Json = {"on_interrupt": "protect"}
ENTRY, STOP = "POST /fapi/v1/order", "POST /fapi/v1/algoOrder"

Steps = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Case:
    """A session: its name, its strikes, other settings, and steps of the price (seconds, USDT away from the first).

    Times count from `UP_S`.
    """

    name: str
    strikes: tuple[tuple[float, str, float, Json], ...] = ()
    settings: Json = field(default_factory=dict)
    steps: Steps = ()

    @property
    def plan(self) -> Plan:
        strikes = [
            *self.strikes,
            at(LAST_S, "operator", action=self._settings["on_interrupt"], reason="STOPPED", final=True),
        ]
        later = tuple((at_s + UP_S, kind, for_s, _shifted(facts)) for at_s, kind, for_s, facts in strikes)
        return Plan(1, self._settings, self.tape, BEGIN_S, later, faults_s=UP_S + LAST_S)

    @property
    def tape(self) -> Trades:
        points = [(0.0, STILL)]
        for at_s, away in self.steps:
            seconds = BEGIN_S + UP_S + at_s
            points += [(seconds, points[-1][1]), (seconds + 2.0, STILL + away)]
        return path_tape([*points, (END_S, points[-1][1])], every_s=1.0, lots=50_000, wiggle=200)

    @property
    def _settings(self) -> Json:
        return {**SETTINGS, **self.settings}


def _shifted(facts: Json) -> Json:
    return {**facts, "until_s": facts["until_s"] + UP_S} if "until_s" in facts else facts


CASES: tuple[Case, ...] = (
    Case("two entries, flat at the end"),
    Case("kept with its stop at the end", settings=PROTECT),
    Case("stopped out", steps=((20, -600.0),), settings=PROTECT),
    Case("at its target", steps=((20, 600.0),), settings=PROTECT),
    Case("left by the opposite signal", settings={**PROTECT, "both_sides": True, "take_profit_atr": 0.0}),
    Case("held for ten seconds", settings={**PROTECT, "max_holding_s": 10.0}),
    Case("entry's answer lost", (at(0, "lose_answer", on=ENTRY),), PROTECT),
    Case("entry swallowed", (at(0, "swallow", on=ENTRY),), PROTECT),
    Case("entry refused", (at(0, "refuse", on=ENTRY, code=-2019),), PROTECT),
    Case("entry answered late", (at(0, "delay_answer", 2.5, on=ENTRY),), PROTECT),
    Case("stop's answer lost", (at(0, "lose_answer", on=STOP),), PROTECT),
    Case("stop refused: it would trigger at once", (at(0, "refuse", on=STOP, code=-2021),), PROTECT),
    Case("market stream cut", (at(20, "abort", on="market"),), PROTECT),
    Case("trades dropped", (at(20, "drop", on="market aggTrade", times=3),), PROTECT),
    Case("user stream cut", (at(20, "abort", on="private"),), PROTECT),
    Case("listen key expired", (at(20, "expire_listen_key"),), PROTECT),
    Case("user events dropped", (at(0, "drop", on="user ORDER_TRADE_UPDATE", times=2),), PROTECT),
    Case("user events twice", (at(0, "duplicate", on="user", times=0),), PROTECT),
    Case("killed with a position", (at(14, "kill"),), PROTECT),
    Case("paused, and resumed", (at(1, "operator", action="pause"), at(30, "operator", action="resume")), PROTECT),
    Case("flattened by the operator", (at(20, "operator", action="flatten"),), PROTECT),
    Case("stop cancelled by hand", (at(20, "cancel_stops", with_={"symbol": "BTCUSDT"}),), PROTECT),
)


# --- what they come to ----------------------------------------------------------------------------------------------


def outcome(truth: Sequence[Json], journal: Sequence[JournalRow]) -> Json:
    """Position, open orders and what struck by the venue's log, intents by the journal."""
    books = VenueBooks()
    for number, row in enumerate(truth):
        books.apply(number, row)
    told = [row.body for row in journal if row.kind == "OrderIntent"]
    orders = [(body["order"]["client_order_id"], body["purpose"], body["order"]) for body in told]
    return {
        "struck": sorted({row["do"] for row in truth if row["kind"] == "fault"}),
        "position": {symbol: str(held.normalize()) for symbol, held in books.held.items()},
        "open": sorted((order.client_id, str(order.quantity.normalize())) for order in books.working.values()),
        "intents": [
            (name, purpose, order["side"], order["quantity"], order["trigger_price"]) for name, purpose, order in orders
        ],
    }


def simulated(case: Case) -> Json:
    """Play it in virtual time."""
    evidence = play(case.plan)
    assert [life.how for life in evidence.lives][-1] == "ended", evidence.lives
    return outcome(evidence.truth, evidence.journals[0])


# --- real processes -------------------------------------------------------------------------------------------------

OURS = ("operator", "kill")
"""Strikes that the test itself carries out; all others are the venue's."""


def real_engine(run: Path) -> subprocess.Popen[bytes]:
    """Start an engine in a run's folder, anew or again."""
    with (run / "engine.log").open("ab") as log:
        command = [sys.executable, "-m", "voltrade", "engine", str(run)]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def real(case: Case, folder: Path) -> Json:
    """Play it by the wall clock, in processes of their own."""
    plan, run = case.plan, folder / "run"
    folder.mkdir()
    at_the_venue = [strike for strike in plan.strikes if strike[1] not in OURS]
    script = [{"do": kind, "at_s": at_s, "for_s": for_s, **facts} for at_s, kind, for_s, facts in at_the_venue]
    with real_venue(folder, plan.settings, plan.tape, script) as address:
        opened = time.time()
        prepare(run, {**plan.settings, "venue": address, "begin_s": 0.0})
        process = real_engine(run)
        try:
            wait_until_up(run, process, opened + UP_S)
            for at_s, kind, _, facts in plan.strikes:
                if kind in OURS:
                    time.sleep(max(opened + at_s - time.time(), 0.0))
                if kind == "kill":
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(20)
                    process = real_engine(run)
                    wait_until_up(run, process, opened + UP_S + 45)
                elif kind == "operator":
                    ctl.ask(
                        run,
                        {
                            "op": "stop" if facts.get("final") else facts["action"],
                            "reason": facts.get("reason", "by plan"),
                        },
                    )
            assert process.wait(60) == 0, (run / "engine.log").read_text()[-2_000:]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)
        truth = [json.loads(line) for line in (folder / "venue/truth.jsonl").read_text().splitlines()]
    return outcome(truth, read_journal(run / "journal.db"))


def wait_until_up(run: Path, process: subprocess.Popen[bytes], latest: float) -> None:
    """Wait until this engine trades; the plan needs it by a time."""
    while True:
        record = read_record(run)
        if record.get("state") == "running" and record.get("pid") == process.pid:
            return
        assert process.poll() is None, (run / "engine.log").read_text()[-2_000:]
        assert time.time() < latest, "the machine is too busy: the engine was not up when the plan began"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each case over sockets: its outcome, or the error."""
    root = tmp_path_factory.mktemp("sockets")

    def one(number: int) -> Any:
        try:
            return real(CASES[number], root / str(number))
        except Exception as error:
            return error

    left_s = (DAY_MS - time.time() * 1000 % DAY_MS) / 1000
    longest_s = -(-len(CASES) // AT_ONCE) * (UP_S + 150)
    if left_s < longest_s:
        time.sleep(left_s + END_S)  # bars are numbered anew at midnight
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip((case.name for case in CASES), pool.map(one, range(len(CASES))), strict=True))


@pytest.mark.campaign
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_session_over_sockets_ends_as_in_the_simulator(case: Case, played: dict[str, Any]) -> None:
    over_sockets = played[case.name]
    if isinstance(over_sockets, Exception):
        raise over_sockets
    assert over_sockets == simulated(case)
    assert over_sockets["intents"]
