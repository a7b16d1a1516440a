"""Twelve cards: what goes wrong in the life of one position, over real sockets and by the wall clock.

The engine enters at once on a price that stands still, with a stop 0.15 % away. The card says what goes wrong; at the
end the price falls through the stop, or the position is gone already, and the session is told to end. The venue's log
says whether the position was ever uncovered for more than 5 s of usable REST (2 s on the clean card), whether anything
was sent twice or left behind, and whether the books are equal to the last unit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from simulation.evidence import Evidence, Json
from simulation.plans import RULE
from simulation.scenario import QUICK
from simulation.tapes import path_tape
from support.real_sessions import RealSession, check_sealed, longest_bare_ms, real_venue, tell, wrong

AT_ONCE = 4
BEGIN_S, TAPE_S = 60.0, 600.0
SYMBOL = {"symbol": "BTCUSDT"}
SETTINGS: Json = {
    **QUICK,
    **{"rule": RULE, "stop_atr": 60.0, "take_profit_atr": 0.0, "cooldown_bars": 100_000, "taker_fee": 0.0002},
    **{"maker_fee": 0.0001, "latency_ms": 50, "mark_interval_s": 1, "duration_s": 500.0, "order_stale_s": 5.0},
    **{"on_interrupt": "flatten", "begin_s": BEGIN_S},
}
"""Enters at once, and never again after it has left."""
ENTRY, STOP = "POST /fapi/v1/order", "POST /fapi/v1/algoOrder"
FALL: Json = {"do": "jump", "with": {**SYMBOL, "by": -0.004}}
KNOWN_WITHIN_S = 90.0
"""A position that has ended while nobody told is known after the next comparison, a minute later."""


def stops(session: RealSession) -> Decimal:
    """What the stops that wait at the exchange are for."""
    last = {row["algo_id"]: row for row in session.truth if row["kind"] == "algo"}
    return sum((Decimal(row["quantity"]) for row in last.values() if row["status"] == "NEW"), Decimal(0))


def until_covered(session: RealSession) -> None:
    session.until(lambda: 0 < abs(session.position) <= stops(session), "a position with its stop", KNOWN_WITHIN_S)


def fall(session: RealSession) -> None:
    """Let the price fall through the stop."""
    session.post(FALL)
    session.until(lambda: session.position == 0, "the stop's fill", KNOWN_WITHIN_S)


def hold_and_fall(session: RealSession) -> None:
    until_covered(session)
    time.sleep(2.0)
    fall(session)


def cancelled(session: RealSession) -> None:
    until_covered(session)
    session.post({"do": "cancel_stops", "with": SYMBOL})
    session.until(lambda: not stops(session), "a cancelled stop")
    hold_and_fall(session)


def releveraged(session: RealSession) -> None:
    until_covered(session)
    session.post({"do": "leverage", "with": {**SYMBOL, "leverage": 10}})
    time.sleep(2.0)
    cancelled(session)


def closed_by_hand(session: RealSession) -> None:
    until_covered(session)
    quantity = str(session.position)
    session.post({"do": "order", "with": {**SYMBOL, "side": "SELL", "quantity": quantity, "reduceOnly": True}})
    session.until(lambda: session.position == 0 and not stops(session), "a stop that is cancelled", KNOWN_WITHIN_S)


def liquidated(session: RealSession) -> None:
    until_covered(session)
    session.post({"do": "mark", "with": {**SYMBOL, "price": "60000"}})
    session.until(lambda: session.position == 0 and not stops(session), "a stop that is gone", KNOWN_WITHIN_S)


def cut(session: RealSession, **how: Any) -> None:
    """Cut for 30 s; the price falls through the stop meanwhile."""
    until_covered(session)
    session.post({"for_s": 30, **how}, for_s=30, is_down=how["do"] == "unreachable")
    time.sleep(10.0)
    fall(session)
    time.sleep(25.0)


def executed_late(session: RealSession) -> None:
    session.until(lambda: session.position, "an order that is executed late")
    time.sleep(30.0)
    hold_and_fall(session)


def banned(session: RealSession) -> None:
    session.until_struck()
    [mark] = session.struck
    session.down.append((mark["time"], mark["time"] + 40_000))
    hold_and_fall(session)


@dataclass(frozen=True)
class Card:
    """What the venue does wrong (`script`), what strikes the engine, what is done from outside, and what it came to."""

    name: str
    act: Callable[[RealSession], None] = hold_and_fall
    script: tuple[Json, ...] = ()
    strikes: tuple[Json, ...] = ()
    is_shown: Callable[[Evidence], bool] = lambda evidence: True


def faults(kind: str, least: int = 1) -> Callable[[Evidence], bool]:
    """The venue's log says that it struck so often."""
    return lambda evidence: sum(row["do"] == kind for row in evidence.of_kind("fault")) >= least


BEFORE_ITS_STOP: Json = {"phase": "filled", "what": "before send", "nth": 1}
BAN: Json = {"do": "ban", "code": 418, "for_s": 40.0}
BANNED_BEFORE_ITS_STOP: Json = {"do": "post", "faults": [BAN], **BEFORE_ITS_STOP}

CARDS = [
    Card("clean"),
    Card("lost answer of the entry", script=({"do": "lose_answer", "on": ENTRY},), is_shown=faults("lose_answer")),
    Card("lost answer of the stop", script=({"do": "lose_answer", "on": STOP},), is_shown=faults("lose_answer")),
    Card("silent user stream", script=({"do": "drop", "on": "user", "times": 0},), is_shown=faults("drop", 2)),
    Card(
        "killed between fill and stop",
        strikes=({"do": "kill", **BEFORE_ITS_STOP},),
        is_shown=lambda evidence: len(evidence.lives) == 2,
    ),
    Card("stop cancelled by hand", cancelled, is_shown=faults("cancel_stops")),
    Card("order executed 20 s late", executed_late, ({"do": "late", "on": ENTRY, "for_s": 20.0},), (), faults("late")),
    Card("418 of 40 s before its stop", banned, (), (BANNED_BEFORE_ITS_STOP,), faults("ban")),
    Card("cut for 30 s around the stop's fill", partial(cut, do="unreachable"), is_shown=faults("unreachable")),
    Card("sockets dead for 30 s around the stop's fill", partial(cut, do="black_hole"), is_shown=faults("black_hole")),
    Card("closed by hand", closed_by_hand, is_shown=faults("order")),
    Card("leverage changed by hand, then the stop cancelled", releveraged, is_shown=faults("leverage")),
    Card("liquidated", liquidated, is_shown=faults("mark")),
]  # fmt: skip


Played = dict[str, Future[str]]


def play(card: Card, folder: Path) -> str:
    """Play a card and judge it; return what was measured."""
    folder.mkdir()
    tape = path_tape([(0.0, 80_000.0), (TAPE_S, 80_000.0)], every_s=0.2, lots=1_000)
    with real_venue(folder, SETTINGS, tape, card.script) as address:
        session = RealSession(folder, address, SETTINGS, card.strikes)
        try:
            session.until_struck()
            card.act(session)
            time.sleep(3.0)
            session.end()
            evidence = session.evidence
        finally:
            session.clean_up()
    check_sealed(session)
    assert card.is_shown(evidence), "what the card is about did not happen"
    found = wrong(evidence)
    assert found == [], f"{folder}\n" + "\n".join(map(str, found))
    return f"{longest_bare_ms(evidence) / 1000:.1f} s uncovered"


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The cards that are asked for, as they are played, some at once."""
    items = (item for item in request.session.items if item.path == request.path and hasattr(item, "callspec"))
    cards: list[Card] = [item.callspec.params["card"] for item in items]
    root = tmp_path_factory.mktemp("cards")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {card.name: pool.submit(play, card, root / str(number)) for number, card in enumerate(cards)}
        pool.shutdown(cancel_futures=True)


@pytest.mark.campaign
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_is_held(card: Card, played: Played, request: pytest.FixtureRequest) -> None:
    tell(request.config, f"{card.name}: {played[card.name].result()}")
