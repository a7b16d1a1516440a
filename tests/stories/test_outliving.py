"""What outlives an engine: its account's next session, and a kill in the middle."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from support.forked import Forked, ForkedVenue
from support.sessions import Truth, bars_of, facts_of
from support.wall_venue import PARAMETERS as WALL_PARAMETERS
from support.wall_venue import SIMULATED, a_venue, dense_tape

from voltrade import journal
from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.data.tape import load_tape
from voltrade.engine import ctl
from voltrade.model import (
    BreakerChange,
    Operator,
    OrderIntent,
    OrderUpdate,
    Refusal,
    ResumeState,
    RoundTrip,
    Snapshot,
)
from voltrade.research.backtest import Backtest, backtest
from voltrade.runs.replay import replay
from voltrade.simulated.symbols import shipped_instrument

PARAMETERS: dict[str, Any] = {
    **{"seed": 7, "hours": 4.0, "threshold": 15, "cooldown_bars": 1, "take_profit_atr": 2.0},
    **{"ema_fast": 5, "ema_slow": 13, "rsi_length": 7, "atr_length": 7},
}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def researched() -> Backtest:
    """The same tape and settings in one go."""
    config = Config.from_parameters(PARAMETERS)
    return backtest(load_tape(config.session, shipped_instrument("BTCUSDT")), config, path="events")


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[str]:
    """A venue of its own, whose account outlives the sessions on it."""
    with a_shared_venue(tmp_path) as address:
        yield address


@contextmanager
def a_shared_venue(folder: Path) -> Iterator[str]:
    """Start a venue on a log, or again on it; yield its address."""
    (folder / "parameters.json").write_text(json.dumps(PARAMETERS))
    given = ("--parameters", str(folder / "parameters.json"), "--log", str(folder / "shared/venue"))
    with closing(ForkedVenue(*given, folder=folder)) as venue:
        yield venue.rest


def engine(run: Path, **parameters: Any) -> Forked:
    """Start an engine in a run's folder, anew or again."""
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (run / "run.json").exists():
        config = Config.from_parameters({**PARAMETERS, **parameters})
        record = {"parameters": config.parameters(), "epoch": run.name, "state": "starting"}
        (run / "run.json").write_text(json.dumps(record))
    return Forked("engine", str(run), log=run / "engine.log")


def wait_until(condition: Callable[[], bool], process: Forked, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, "the engine ended before its time"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)


def wait_for(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def fills_at_the_venue(truth: Truth) -> list[tuple[Any, ...]]:
    return [
        (f["time"], f["side"], Decimal(f["price"]), Decimal(f["quantity"]), Decimal(f["fee"]), Decimal(f["realised"]))
        for f in truth.kind("fill")
    ]


def fills_in_research(done: Backtest) -> list[tuple[Any, ...]]:
    fills = [f for f in done.facts if isinstance(f, OrderUpdate) and f.trade_id]
    price, lots = done.instrument.price, done.instrument.quantity
    money = [(Decimal(f.fee).scaleb(-8), Decimal(f.realised).scaleb(-8)) for f in fills]
    return [
        (f.time, f.side.name, price(f.last_price), lots(f.last_quantity), *amounts)
        for f, amounts in zip(fills, money, strict=True)
    ]


def check_sealed(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "ended", (record, (run / "engine.log").read_text()[-2000:])
    assert journal.verify(run / "journal.db").ok
    again = replay(run / "journal.db")
    assert again.differences == 0, again.shown


def test_a_day_in_three_sessions_is_the_day_in_one(venue: str, tmp_path: Path, researched: Backtest) -> None:
    start = next(f.time for f in researched.facts)
    inside = [trip for trip in researched.trips if trip.closed_at - trip.opened_at > 60_000]
    # Each of the first two sessions ends while it holds a position, which the next takes in hand.
    ends = [(inside[index].opened_at + inside[index].closed_at) // 2 for index in (1, 4)]
    durations = [(ends[0] - start) / 1000, (ends[1] - ends[0]) / 1000, 0.0]
    for name, duration in zip("abc", durations, strict=True):
        policy = "protect" if duration else "flatten"
        done = engine(tmp_path / name, venue=venue, duration_s=duration, on_duration_end=policy)
        assert done.wait(100) == 0, (tmp_path / name / "engine.log").read_text()[-2000:]
        check_sealed(tmp_path / name)

    truth = Truth.of(tmp_path / "shared")
    assert fills_at_the_venue(truth) == fills_in_research(researched)
    trips = [f for name in "abc" for f in facts_of(tmp_path / name) if isinstance(f, RoundTrip)]
    assert [(t.id, t.net, t.exit_reason) for t in trips] == [(t.id, t.net, t.exit_reason) for t in researched.trips]
    changes = [f for name in "abc" for f in facts_of(tmp_path / name) if isinstance(f, BreakerChange)]
    assert changes == [f for f in researched.facts if isinstance(f, BreakerChange)]
    names = researched.bars.dtype.names
    whole = [tuple(bar[name] for name in names) for bar in bars_of(tmp_path / "c")]
    known = [tuple(row[name] for name in names) for row in researched.bars[-len(whole) :]]
    # The first one is cut where the last session's loading began; it says so, and is the same bar of the day.
    assert whole[1:] == known[1:]
    first, last = bars_of(tmp_path / "c")[0], researched.bars[-len(whole)]
    assert first["tainted"]
    assert [first[name] for name in ("day", "number", "close_time", "close")] == [
        last[name] for name in ("day", "number", "close_time", "close")
    ]
    heads = [json.loads((tmp_path / name / "run.json").read_text())["head"] for name in "ab"]
    adopted = [fact.head for name in "bc" for fact in facts_of(tmp_path / name) if isinstance(fact, ResumeState)]
    assert adopted == heads


def test_a_session_that_begins_at_eight_in_the_evening_decides_as_research_does(tmp_path: Path) -> None:
    """The tape begins at 20:00; the session a day later. Bars and indicators are those of the whole tape."""
    day = {"hours": 26.0, "begin_s": 86_400.0}
    done = engine(tmp_path / "evening", **day)
    assert done.wait(120) == 0, (tmp_path / "evening/engine.log").read_text()[-2000:]
    check_sealed(tmp_path / "evening")

    config = Config.from_parameters(PARAMETERS | day)
    whole = load_tape(config.session, shipped_instrument("BTCUSDT"))
    research = backtest(whole, config, epoch="evening", path="events")
    eight = int(whole.trades.time[0]) + 86_400_000
    known = {(bar["day"], bar["number"]): number for number, bar in enumerate(research.bars)}
    bars = bars_of(tmp_path / "evening")
    loaded, traded = bars[0], bars[1:]
    assert loaded["tainted"]  # cut where the loading began: a few hundred bars of the thousands that the day has had
    assert len(bars) < len(research.bars) // 3
    for bar in traded:
        number = known[bar["day"], bar["number"]]
        assert [bar[name] for name in research.bars.dtype.names] == [
            research.bars[number][name] for name in research.bars.dtype.names
        ]
        if bar["decision"]["ready"]:
            ours, theirs = bar["decision"], research.bar_decisions[number]
            assert ours == pytest.approx({name: theirs[name].item() for name in ours}, rel=1e-9)
    assert sum(bar["decision"]["ready"] for bar in traded) > 100

    def decisions(facts: list[Any]) -> list[Any]:
        intents = [(f.time, f.order) for f in facts if isinstance(f, OrderIntent)]
        refusals = [(f.time, f.side, f.code) for f in facts if isinstance(f, Refusal) and f.time >= eight]
        fills = [(f.trade_id, f.last_price, f.last_quantity, f.fee) for f in facts if isinstance(f, OrderUpdate)]
        return [*intents, *refusals, *fills]

    assert decisions(facts_of(tmp_path / "evening")) == decisions(research.facts)
    assert len([f for f in research.facts if isinstance(f, RoundTrip)]) >= 3


@pytest.mark.campaign
def test_an_engine_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = engine(run)
    for count in (1, 3):  # round trips begun: killed while the first, then the third is young

        def entered(count: int = count) -> bool:
            path = run / "journal.db"
            if not json.loads((run / "run.json").read_text()).get("begun"):
                return False
            kinds = [row.kind for row in journal.read(path)]
            return kinds.count("OrderIntent") >= 3 * count and "RoundTrip" not in kinds[-3:]

        wait_until(entered, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        process = engine(run)
    assert process.wait(100) == 0, (run / "engine.log").read_text()[-2000:]
    check_nothing_is_doubled(run, restarts=2)


def check_nothing_is_doubled(run: Path, restarts: int) -> None:
    """Whatever was in flight: nothing was sent twice, every fill was counted once, and nothing is left open."""
    check_sealed(run)
    assert len([row for row in journal.read(run / "journal.db") if row.kind == "EngineRestarted"]) == restarts
    truth = Truth.of(run)
    placed = [row["client_order_id"] for row in truth.kind("accepted") if row["action"].startswith("place")]
    assert len(placed) == len(set(placed))
    facts = facts_of(run)
    told = [f.trade_id for f in facts if isinstance(f, OrderUpdate) and f.trade_id]
    # A fill whose news was lost with the engine comes with the account's snapshot.
    told += [fill.trade_id for f in facts if isinstance(f, Snapshot) for fill in f.fills]
    assert sorted(set(told)) == [f["trade_id"] for f in truth.kind("fill")]
    assert Decimal(truth.kind("fill")[-1]["position"]) == 0
    net = sum(trip.net for trip in facts_of(run) if isinstance(trip, RoundTrip))
    wallets = [Decimal(row["wallet"]) for row in (truth.kind("start")[0], truth.kind("account")[-1])]
    assert Decimal(net).scaleb(-8) == wallets[1] - wallets[0]


@pytest.mark.parametrize("speed", [0.0, pytest.param(1.0, marks=pytest.mark.campaign)])
def test_a_session_goes_on_though_its_venue_has_ended_too(tmp_path: Path, speed: float) -> None:
    """As a venue does that nobody has used for long: the engine starts it again on its log, at another address."""
    run, dense = tmp_path / "killed", {"speed": 1.0, "begin_s": 600.0, "duration_s": 12.0, "tape": str(dense_tape())}
    given = {**WALL_PARAMETERS, **dense} if speed else {"hours": 4.0}
    process = engine(run, **given)

    log = run / "venue/truth.jsonl"
    wait_until(lambda: log.exists() and log.read_bytes().count(b'"kind":"fill"') >= 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)
    before = json.loads((run / "run.json").read_text())
    with urlopen(Request(f"{before['venue']}/voltrade/stop", method="POST")):
        pass
    wait_for(lambda: not is_answered(f"{before['venue']}/voltrade/status"))
    rows = Truth.of(run).rows
    process = engine(run)
    assert process.wait(100) == 0, (run / "engine.log").read_text()[-2000:]
    assert json.loads((run / "run.json").read_text())["venue"] != before["venue"]
    assert Truth.of(run).rows[: len(rows)] == rows
    check_nothing_is_doubled(run, restarts=1)


def is_answered(url: str) -> bool:
    try:
        with urlopen(url):
            return True
    except OSError:
        return False


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(6))
def test_an_engine_that_is_killed_at_any_moment_goes_on(tmp_path: Path, seed: int) -> None:
    """Kills come while it starts, recovers and trades: nothing is doubled or lost, and the books balance."""
    run, moments = tmp_path / "killed", random.Random(seed)
    process = engine(run)
    for _ in range(5):
        wait_for(lambda: bool(json.loads((run / "run.json").read_text()).get("begun")))
        deadline = time.monotonic() + moments.uniform(0.0, 3.0)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        ended = json.loads((run / "run.json").read_text())["state"] == "ended"
        process = engine(run)
        if ended:  # killed after its last word: there is nothing to go on with
            assert process.wait(60) == 2
            break
    else:
        assert process.wait(100) == 0, (run / "engine.log").read_text()[-2000:]
    check_sealed(run)
    truth = Truth.of(run)
    placed = [row["client_order_id"] for row in truth.kind("accepted") if row["action"].startswith("place")]
    assert len(placed) == len(set(placed))
    assert Decimal(truth.kind("fill")[-1]["position"]) == 0
    net = sum(trip.net for trip in facts_of(run) if isinstance(trip, RoundTrip))
    wallets = [Decimal(row["wallet"]) for row in (truth.kind("start")[0], truth.kind("account")[-1])]
    assert Decimal(net).scaleb(-8) == wallets[1] - wallets[0]


# --- which run an account goes on with --------------------------------------------------------------------------------


def is_in_position(run: Path) -> bool:
    """Whether a run holds a position with its stop and target, be it the first or a later one."""
    if not record_of(run).get("begun"):
        return False
    kinds = [row.kind for row in journal.read(run / "journal.db")]
    closed = len(kinds) - kinds[::-1].index("RoundTrip") if "RoundTrip" in kinds else 0
    return kinds[closed:].count("OrderIntent") >= 3


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def killed_in_position(run: Path, venue: str) -> str:
    """Kill a run while it holds a position; return the head of its journal."""
    process = engine(run, venue=venue)
    wait_until(lambda: is_in_position(run), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)
    return journal.last_row(run / "journal.db")[1]


def test_a_run_that_was_cut_short_is_followed_wherever_its_folder_is(venue: str, tmp_path: Path) -> None:
    """Fault cases E2 and E4: the same command again, with the earlier folder out of reach, moved aside, and resumed."""
    today, far, aside = tmp_path / "runs/today", tmp_path / "far/away/from/here", tmp_path / "runs/20260301_today"
    head = killed_in_position(today, venue)
    far.parent.mkdir(parents=True)
    today.rename(far)
    sent = len(Truth.of(tmp_path / "shared").kind("accepted"))
    assert engine(today, venue=venue).wait(60) == 1
    assert "put that folder back" in record_of(today)["error"]
    assert len(Truth.of(tmp_path / "shared").kind("accepted")) == sent

    today.rename(tmp_path / "runs/20260302_today")
    far.rename(aside)
    process = engine(today, venue=venue, duration_s=3600.0)
    wait_until(lambda: record_of(today)["state"] == "running", process)
    assert engine(aside).wait(60) == 1  # while the next one trades, or just after
    assert re.search("another session or check uses it|the ledger names run", record_of(aside)["error"])
    assert process.wait(100) == 0, (today / "engine.log").read_text()[-2000:]
    check_sealed(today)
    [adoption] = [fact for fact in facts_of(today) if isinstance(fact, ResumeState)]
    assert adoption.head == head

    sent = len(Truth.of(tmp_path / "shared").kind("accepted"))
    assert engine(aside).wait(60) == 1
    assert f"the ledger names run {record_of(today)['id']} ({today})" in record_of(aside)["error"]
    assert len(Truth.of(tmp_path / "shared").kind("accepted")) == sent
    assert journal.last_row(aside / "journal.db")[1] == head


def test_a_run_that_failed_leaves_its_state_though_its_folder_is_deleted(tmp_path: Path) -> None:
    """Fault case E2: its breaker and its position are in the ledger."""
    run = tmp_path / "runs/today"
    with a_shared_venue(tmp_path) as address:
        process = engine(run, venue=address)
        wait_until(lambda: is_in_position(run), process)
    assert process.wait(60) == 1  # its venue is gone, and with it the clock
    failed = record_of(run)
    assert failed["state"] == "failed"
    shutil.rmtree(run)
    with a_shared_venue(tmp_path) as address:
        process = engine(run, venue=address, duration_s=60.0)
        assert process.wait(100) == 0, (run / "engine.log").read_text()[-2000:]
    check_sealed(run)
    [adoption] = [fact for fact in facts_of(run) if isinstance(fact, ResumeState)]
    assert adoption.head == failed["head"]
    assert json.loads(adoption.state)["symbol_states"]["BTCUSDT"]["orders"]["open_position"]


def test_a_run_that_was_killed_while_it_loaded_begins_anew(venue: str, tmp_path: Path, state_home: Path) -> None:
    """Fault case E3: before and after the ledger names it, it goes on from what the account's last run left.

    So does another run, begun in its place.
    """
    quarter = {"venue": venue, "duration_s": 900.0, "on_duration_end": "protect"}
    last = tmp_path / "first"
    assert engine(last, **quarter).wait(100) == 0, (last / "engine.log").read_text()[-2000:]
    kills = [("second", False, "second"), ("third", True, "third"), ("fourth", True, "fifth")]
    for killed, is_named, follower in kills:
        leave_as_killed_while_it_loaded(tmp_path / killed, last, state_home if is_named else None)
        run = tmp_path / follower
        assert engine(run, **quarter).wait(100) == 0, (run / "engine.log").read_text()[-2000:]
        check_sealed(run)
        [adoption] = [fact for fact in facts_of(run) if isinstance(fact, ResumeState)]
        assert adoption.head == record_of(last)["head"], follower
        last = run


def leave_as_killed_while_it_loaded(run: Path, last: Path, state_home: Path | None) -> None:
    """Make the folder of a run that was killed before its first event; with a state home, the ledger names it."""
    identity = uuid4().hex  # a run is looked for in folders around, those of other tests too
    run.mkdir(mode=0o700)
    begun = {"epoch": run.name, "state": "starting", "begun": True, "id": identity}
    (run / "run.json").write_text(json.dumps(record_of(last) | begun))
    start = next(journal.read(last / "journal.db"))
    with journal.Journal.create(run / "journal.db", identity) as made:
        made.append("Start", start.time, start.body)
    if state_home is not None:
        [path] = (state_home / "accounts").glob("*.json")
        entry = json.loads(path.read_text())
        named = {
            "run": identity,
            "folder": str(run),
            "final_state": None,
            "resumed_from": entry["final_state"],
            "previous_run": entry["run"],
        }
        path.write_text(json.dumps(entry | named))


def test_a_person_steers_a_session_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/steered"
    run.parent.mkdir()
    process = engine(run, hours=96.0)  # minutes
    wait_until(lambda: json.loads((run / "run.json").read_text())["state"] == "running", process)
    took = []

    def ctl(*words: str) -> str:
        began = time.monotonic()
        assert main(["ctl", *words]) == 0
        took.append(time.monotonic() - began)
        return str(capsys.readouterr().out)

    assert "running" in ctl("status")
    second = engine(run)
    assert second.wait(60) == 2
    assert "another engine runs it" in (run / "engine.log").read_text()
    assert "running" in ctl("status")
    ctl("pause", "--reason", "lunch")
    ctl("stop", str(run), "--reason", "done for today")
    assert min(took) < 1  # a session at work holds it up no longer; a busy machine may
    assert process.wait(30) == 0
    check_sealed(run)
    orders = [fact for fact in facts_of(run) if isinstance(fact, Operator)]
    ordered = [(order.action, order.reason) for order in orders]
    assert ordered == [("pause", "lunch"), ("protect", "STOPPED: done for today")]
    assert json.loads((run / "run.json").read_text())["end_reason"] == "STOPPED: done for today"
    assert main(["ctl", "status", str(run)]) == 2
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("races", [1, pytest.param(50, marks=pytest.mark.campaign)])
def test_two_engines_on_one_account_only_one_trades(tmp_path: Path, races: int) -> None:
    """Fault case E1: wherever the folders of their runs are."""
    with a_venue(tmp_path, api=("sim-key", "sim-secret")) as address:
        for number in range(races):
            race(address, [tmp_path / f"left{number}/today", tmp_path / f"right{number}/2026-11/today"])


def race(venue: str, runs: list[Path]) -> None:
    """Start two engines at once; the one that got the account keeps it until it is told to stop."""
    engines = {run: engine(run, venue=venue, **SIMULATED) for run in runs}
    wait_for(lambda: any(process.poll() is not None for process in engines.values()))
    [refused] = [run for run, process in engines.items() if process.poll() is not None]
    [trades] = [run for run in runs if run != refused]
    record = json.loads((refused / "run.json").read_text())
    assert record["state"] == "failed"
    assert "another session or check uses it" in record["error"]
    wait_for(lambda: json.loads((trades / "run.json").read_text())["state"] == "running")
    ctl.ask(trades, {"op": "stop", "reason": "it has won"})
    assert engines[trades].wait(60) == 0
    assert json.loads((trades / "run.json").read_text())["end_reason"] == "it has won"
