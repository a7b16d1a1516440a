"""Group E of the fault cases: several runs on one account, one after the other, at once, killed, and gone on with.

| case | not told here, since |
|---|---|
| E1, another host or key | the account is known by one key, and the simulated machine is one |
| E1, a symlinked folder, E4, a copied one | files are the same to a story as a folder of another name |
| E7 | whether a notebook attends is a matter of processes and a socket |
| E8 | mode live, a file of authorisation, a person's word |
| E10 | what an output name moves is decided before a run has a folder |
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from simulation.evidence import Evidence, Json
from simulation.scenario import at
from simulation.stories import claims
from simulation.stories.plots import ALGO, DOWN, ORDER, PRICE, SYMBOL, answers, by_hand, rarely, story

LOG = "runs/run/journal.db-wal"
LOSES: Json = {"max_consecutive_losses": 1, "consecutive_losses_resume": "person", "cooldown_bars": 1}
"""One loss ends trading until a person resumes it."""
FALLS = [(5, PRICE), (6, PRICE - 300)]


def orders_of(evidence: Evidence, run: int, begin_s: float = 0.0) -> list[str]:
    """Orders that a run sent, from a moment of the story on, taken or not."""
    begin = claims.when(evidence, begin_s)
    posts = [request for request in evidence.requests if request.method == "POST" and request.sent >= begin]
    return [request.client_id for request in posts if request.client_id.startswith(f"vt-e{run}-")]


def ids_used_twice(evidence: Evidence) -> list[str]:
    """Client ids under which more than one order was asked for."""
    posts = Counter(request.client_id for request in evidence.requests if request.method == "POST")
    return [name for name, count in posts.items() if name.startswith("vt-") and count > 1]


@pytest.mark.parametrize("name", [rarely("b"), "2026-11/b"])
def test_e1_a_second_run_on_the_account_is_refused_wherever_its_folder_is(name: str) -> None:
    """`runs/run` trades; another run of the account is begun in a folder beside it, or deeper. It never starts."""
    evidence = story(at(20, "run", name=name, again=False, duration_s=30.0), duration_s=40.0)
    assert [life.how for life in evidence.lives if life.run == 1] == ["failed"]
    assert [life.how for life in evidence.lives if life.run == 0] == ["ended"]
    assert orders_of(evidence, 1) == []


@pytest.mark.parametrize("name", [rarely("b"), "2026-11/b"])
def test_e1_a_breaker_that_waits_for_a_person_waits_in_every_folder(name: str) -> None:
    """A run loses and its breaker stops until a person resumes; the next run, in another folder, must not enter."""
    evidence = story(at(30, "run", name=name), path=FALLS, duration_s=15.0, **LOSES)
    claims.premise(evidence.of_kind("fill"), "a run that loses")
    assert orders_of(evidence, 1) == []


@pytest.mark.parametrize("name", ["run", rarely("other")], ids=["the same name", "another name"])
def test_e2_a_moved_run_does_not_take_the_breaker_with_it(name: str) -> None:
    """A run whose breaker waits for a person fails; its folder is moved aside, and the command is given again."""
    moved = at(10, "crash", again=False), at(12, "move", what="runs/run", to="runs/20260105T110000Z_run")
    evidence = story(*moved, at(15, "run", name=name), path=FALLS, duration_s=15.0, **LOSES)
    claims.premise(evidence.lives[0].how == "failed", "a run that fails")
    assert orders_of(evidence, 1) == []


@pytest.mark.parametrize("name", ["run", rarely("other")], ids=["the same name", "another name"])
def test_e2_a_moved_run_does_not_take_the_position_with_it(name: str) -> None:
    """A run fails in position, its folder is moved; the next run adopts the position and its stop, and leaves it."""
    moved = at(10, "crash", again=False), at(12, "move", what="runs/run", to="runs/20260105T110000Z_run")
    evidence = story(*moved, at(15, "run", name=name), duration_s=20.0)
    assert claims.position_at_end(evidence) == 0
    assert claims.open_at_end(evidence) == []


@pytest.mark.parametrize(
    "what",
    [
        "dial market",
        "send GET /fapi/v1/aggTrades",
        "write before commit",
    ],
)
def test_e3_a_run_that_is_killed_while_it_begins_adopts_all_the_same(what: str) -> None:
    """A run ends with `protect` and a position; the next is killed while it loads, and started again.

    Killed before its journal's first row it adopts today already: it then begins anew.
    """
    killed = at(19, "kill_at", what=what)
    second = at(20, "run", name="b", duration_s=20.0, on_duration_end="flatten")
    evidence = story(killed, second, duration_s=10.0, on_duration_end="protect")
    claims.premise([life.how for life in evidence.lives[:2]] == ["ended", "killed"], "a kill while the second begins")
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize(
    ("resumed_s", "how"),
    [
        (20, "failed"),
        (60, "refused"),
    ],
    ids=["while the other runs", "after the other has ended"],
)
def test_e4_a_run_that_another_has_adopted_does_not_go_on(resumed_s: float, how: str) -> None:
    """A run is killed in position; another adopts, closes and ends. The first one, resumed, is refused.

    It sends nothing, and the round trip is booked once in all.
    """
    dead, second = at(10, "kill", again=False), at(15, "run", name="b", duration_s=20.0)
    evidence = story(dead, second, at(resumed_s, "resume", run=0), duration_s=50.0)
    assert [life.how for life in evidence.lives if life.run == 0][-1] in (how, "failed")
    assert orders_of(evidence, 0, begin_s=15.0) == []
    assert len(claims.round_trips(evidence)) == 1


def test_e5_an_order_of_the_lost_end_of_a_journal_is_known_by_what_it_left() -> None:
    """Killed as the entry leaves; the end of the write-ahead log is spoilt, and with it the intent; started again.

    The position that the exchange reports gets a stop or is left within 5 s of the engine's return.
    """
    killed = at(0.5, "kill_at", what="sent POST /fapi/v1/order")
    evidence = story(killed, at(1.5, "spoil", what=LOG, size=2_900))
    back = evidence.lives[1].begin
    assert [(begin, end) for begin, end in claims.uncovered(evidence) if end > back + 5_000] == []
    assert claims.position_at_end(evidence) == 0


@pytest.mark.parametrize(
    ("killed", "spoilt_s"),
    [
        pytest.param(at(5, "kill_at", what="sent POST /fapi/v1/order"), 11.5, id="exit"),
        pytest.param(at(0, "kill_at", what="sent POST /fapi/v1/algoOrder"), 1.5, id="stop"),
    ],
)
def test_e5_a_client_id_of_the_lost_end_of_a_journal_is_not_used_again(killed: Any, spoilt_s: float) -> None:
    """Killed as an exit, or the stop, leaves; its intent is lost with the log's end; started again.

    On a thin tape, so that the first order is still at work: the venue refuses the second of that name.
    """
    evidence = story(killed, at(spoilt_s, "spoil", what=LOG, size=2_900), lots=20, max_holding_s=10.0)
    claims.premise([life.how for life in evidence.lives][:1] == ["killed"], "a run that is gone on with")
    assert evidence.lives[-1].how == "ended"
    assert ids_used_twice(evidence) == []
    assert claims.position_at_end(evidence) == 0


@pytest.mark.parametrize("purpose", ["entry", "stop", "exit"])
def test_e5_commits_that_never_reached_the_disk_leave_no_position_to_nobody(purpose: str) -> None:
    """The machine dies, and with it the last commits and the ledger's note of them: an order was sent, nobody knows."""
    sent = {"entry": ORDER, "stop": ALGO, "exit": ORDER}[purpose]
    killed = at(5.0 if purpose == "exit" else 0.0, "kill_at", what=f"sent {sent}", lost=2)
    evidence = story(killed, max_holding_s=10.0, duration_s=30.0)
    intents = [row.body["order"]["client_order_id"] for row in evidence.journals[0] if row.kind == "OrderIntent"]
    gone = [
        row["client_order_id"] for row in evidence.of_kind("order", "algo") if row["client_order_id"] not in intents
    ]
    claims.premise([life.how for life in evidence.lives] == ["killed", "ended"], "a run that is gone on with")
    claims.premise(gone, "an order whose intent is lost")
    assert ids_used_twice(evidence) == []
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("lost", [10, 14], ids=["rows of the entry", "the whole log"])
def test_e5_a_session_that_is_told_to_end_before_it_knows_its_position_ends_when_that_is_closed(lost: int) -> None:
    """Killed in position with its journal's end lost, and told to flatten before its successor has read the account:
    by its books it is flat. It ends when the exchange says so, without a stop that is left there.
    """
    told = at(11.53, "operator", action="flatten", reason="SIGTERM", final=True)
    evidence = story(at(10, "kill", lost=lost), told)
    assert [life.how for life in evidence.lives] == ["killed", "ended"]
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("what", [LOG, "runs/run/journal.db"], ids=["the log", "the journal"])
def test_e5_a_journal_that_is_gone_leaves_the_position_to_a_caretaker(what: str) -> None:
    """Killed in position, and the journal or its write-ahead log is deleted. The position, known from the exchange's
    trades, is left; people are told, and nothing more is entered.
    """
    evidence = story(at(10, "kill"), at(10.5, "remove", what=what), cooldown_bars=1, duration_s=30.0)
    assert claims.is_left_in_order(evidence)
    assert claims.entries(evidence, evidence.lives[1].begin) == []
    assert ids_used_twice(evidence) == []
    assert any(text.startswith("CARETAKER: JOURNAL_LOST") for text in claims.alerts(evidence))


@pytest.mark.parametrize("killed", ["before", "after"])
def test_e5_a_caretaker_that_is_killed_as_it_begins_a_new_journal_is_followed_by_another(killed: str) -> None:
    """Killed in position, the journal deleted; and killed again around the first commit of the new journal."""
    again = at(10.6, "kill_at", what=f"write {killed} commit")
    evidence = story(at(10, "kill"), at(10.5, "remove", what="runs/run/journal.db"), again, duration_s=30.0)
    assert [life.how for life in evidence.lives] == ["killed", "killed", "ended"]
    assert claims.is_left_in_order(evidence)
    assert claims.entries(evidence, evidence.lives[1].begin) == []
    assert any(text.startswith("CARETAKER: JOURNAL_LOST") for text in claims.alerts(evidence))


def test_e5_a_lost_journal_of_a_run_that_counts_in_finer_units_is_begun_anew_in_them() -> None:
    """Tick and step grow while a position waits for the next run, which adopts it, is killed, and loses its journal."""
    coarser = at(10, "filters", with_={**SYMBOL, "step_multiple": 7, "tick_multiple": 70})
    second = at(15, "run", name="b", duration_s=20.0, on_duration_end="flatten")
    lost = at(20, "kill"), at(20.5, "remove", what="runs/b/journal.db")
    evidence = story(coarser, second, *lost, duration_s=8.0, on_duration_end="protect")
    assert [life.how for life in evidence.lives] == ["ended", "killed", "ended"]
    assert claims.is_left_in_order(evidence)


def test_e5_an_older_copy_that_is_put_back_enters_nothing() -> None:
    """The journal of before the entry takes the place of the one that a killed engine has left."""
    copied = at(0.4, "copy", what="runs/run/journal.db", to="older"), at(0.4, "copy", what=LOG, to="older-wal")
    back = at(10.5, "move", what="older", to="runs/run/journal.db"), at(10.5, "move", what="older-wal", to=LOG)
    evidence = story(*copied, at(10, "kill"), *back, cooldown_bars=1, duration_s=30.0)
    assert claims.is_left_in_order(evidence)
    assert claims.entries(evidence, evidence.lives[1].begin) == []
    assert ids_used_twice(evidence) == []


def in_state(status: str) -> Any:
    return lambda info: info | {"symbols": [symbol | {"status": status} for symbol in info["symbols"]]}


@pytest.mark.parametrize("status", ["TRADING_HALT", rarely("SETTLING")])
def test_e6_a_killed_run_comes_back_though_the_symbol_does_not_trade(status: str) -> None:
    """Killed with a position; exchangeInfo then says that the symbol does not trade; resumed. It tends the position."""
    halted = answers(1e6, "GET /fapi/v1/exchangeInfo", in_state(status), at_s=11)
    evidence = story(at(10, "kill", again=False), halted, at(15, "resume", run=0), duration_s=30.0)
    assert claims.is_left_in_order(evidence)


def test_e6_a_run_with_a_position_to_adopt_begins_though_the_symbol_does_not_trade() -> None:
    """A run ends with `protect`; the symbol is halted; the next run adopts the position and leaves it at its end."""
    halted = answers(1e6, "GET /fapi/v1/exchangeInfo", in_state("TRADING_HALT"), at_s=11)
    second = at(15, "run", name="b", again=False, duration_s=20.0, on_duration_end="flatten")
    evidence = story(halted, second, duration_s=10.0, on_duration_end="protect")
    assert claims.is_left_in_order(evidence)


def test_e9_protect_waits_for_an_exit_that_is_filling() -> None:
    """An exit fills bit by bit when the session's time is over with `protect`: it ends when the exit is done.

    Every fill is in the journal, and nothing but a stop of what is left is at the exchange.
    """
    evidence = story(lots=20, max_holding_s=17.0, duration_s=20.0, on_duration_end="protect")
    told = {row.body["trade_id"] for row in evidence.journals[0] if row.kind == "OrderUpdate"}
    assert {row["trade_id"] for row in evidence.of_kind("fill")} <= told
    assert [name for name in claims.open_at_end(evidence) if "-1s" not in name] == []


def test_e11_a_run_without_its_record_goes_on_from_its_journal() -> None:
    """Killed in position, the record deleted, resumed. (The other right answer, a text, is no story.)"""
    lost = at(10, "kill", again=False), at(11, "remove", what="runs/run/run.json")
    evidence = story(*lost, at(12, "resume", run=0), duration_s=30.0)
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("left", [b"", b'{"parameters"', b"[]"], ids=["empty", "cut short", "no record"])
def test_e11_a_damaged_record_is_made_again_from_the_journal(left: bytes) -> None:
    """Killed in position, and what a full disk has left of the record can't be read."""
    damaged = at(10, "kill", again=False), at(11, "put", what="runs/run/run.json", left=left)
    evidence = story(*damaged, at(12, "resume", run=0), duration_s=30.0)
    assert [life.how for life in evidence.lives] == ["killed", "ended"]
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("at_s", [0.7, 10.0], ids=["between fill and stop", "in position"])
def test_a_state_folder_that_is_deleted_ends_no_engine(at_s: float) -> None:
    """The stop leaves all the same, nothing more is entered, and a person is told."""
    evidence = story(at(at_s, "remove", what="state"), cooldown_bars=1, max_holding_s=15.0)
    assert claims.is_left_in_order(evidence)
    assert claims.uncovered_s(evidence) <= 2.0
    assert [life.how for life in evidence.lives] == ["ended"]
    told = [row.body["reason"] for row in evidence.journals[0] if row.kind == "Operator"]
    assert told == ["LEDGER: No such file or directory"]
    entries = [name for name in orders_of(evidence, 0, at_s + 1.0) if "e" in name.rsplit("-", 1)[1]]
    assert entries == []


@pytest.mark.parametrize("lost", ["the stops are cancelled by hand", "the stop fills"])
def test_protect_ends_when_the_exchange_has_confirmed_what_is_left(lost: str) -> None:
    """The user stream is gone, and nobody tells that the stop is too: the account is asked before the end."""
    gone = at(9.9, "answer", 30, on="POST /fapi/v1/listenKey", **DOWN), at(10, "abort", on="private")
    by_hand = lost == "the stops are cancelled by hand"
    hand = (at(15, "cancel_stops", with_=SYMBOL),) if by_hand else ()
    path = [] if by_hand else [(14, PRICE), (15, PRICE - 300)]
    evidence = story(*gone, *hand, path=path, duration_s=20.0, on_duration_end="protect")
    assert [life.reason for life in evidence.lives] == ["DURATION_END"]
    assert (claims.position_at_end(evidence) == 0) != by_hand
    assert [name.rsplit("-", 1)[1] for name in claims.open_at_end(evidence)] == (["1s2"] if by_hand else [])
    told = {row.body["trade_id"] for row in evidence.journals[0] if row.kind == "OrderUpdate"}
    listed = (row.body["fills"] for row in evidence.journals[0] if row.kind == "Snapshot")
    told |= {fill["trade_id"] for fills in listed for fill in fills}
    assert {row["trade_id"] for row in evidence.of_kind("fill")} <= told


@pytest.mark.parametrize(
    "theirs",
    [
        at(5, "order", with_={**SYMBOL, "side": "BUY", "quantity": "0.1", "type": "LIMIT", "price": "70000"}),
        rarely(at(5, "twap", with_={**SYMBOL, "side": "BUY", "quantity": "0.1"})),
        rarely(by_hand(5, "BUY", "0.1")),
    ],
    ids=["a limit order", "a TWAP", "lots"],
)
def test_protect_ends_beside_what_somebody_else_has_there(theirs: Any) -> None:
    """It is not ours and stays; our position has its stop."""
    evidence = story(theirs, duration_s=40.0, on_duration_end="protect")
    assert [life.how for life in evidence.lives] == ["ended"]
    assert "vt-e0-1s1" in claims.open_at_end(evidence)


def test_protect_ends_although_a_comparison_was_failing_when_it_asked_for_the_account() -> None:
    """The comparison of the first minute fails for 10 s, and meanwhile the session's time is over."""
    fails = at(58, "answer", 10, on="GET /fapi/v3/account", **DOWN)
    evidence = story(fails, duration_s=64.0, on_duration_end="protect")
    failed = [each.sent for each in evidence.requests if each.path == "/fapi/v3/account" and each.status == 503]
    claims.premise(failed and failed[0] < claims.when(evidence, 64), "a comparison that fails before the end")
    assert [life.how for life in evidence.lives] == ["ended"]
    assert claims.open_at_end(evidence) == ["vt-e0-1s1"]
