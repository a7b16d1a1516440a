"""Our own engine at a venue that misbehaves by a script: what is unknown is found out, and nothing is done twice.

What is believed is the venue's own log.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.forked import ForkedVenue
from support.sessions import Truth, facts_of
from support.venue_client import Client, flat_tape, run, until
from test_outliving import PARAMETERS, check_sealed, engine

from voltrade.exchange.binance import BinanceRestClient, BinanceWSManager, Endpoint, connect
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.responses import REDIRECTED
from voltrade.model import (
    LookupOrder,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Purpose,
    Reply,
    RoundTrip,
    Side,
    Snapshot,
)
from voltrade.venue.faults import LOST, Fault


@contextmanager
def a_venue(folder: Path, script: str, **parameters: Any) -> Iterator[str]:
    """Run the venue's command with a script; its log is in `folder/venue`."""
    (folder / "parameters.json").write_text(json.dumps({**PARAMETERS, **parameters}))
    words = ("--parameters", str(folder / "parameters.json"), "--log", str(folder / "venue"), "--faults", script)
    with closing(ForkedVenue(*words, folder=folder)) as venue:
        yield venue.rest


def session(folder: Path, script: str, **parameters: Any) -> tuple[list[Any], Truth]:
    """Trade the tape under a script; return the journal's facts and the venue's truth."""
    with a_venue(folder, script, **parameters) as venue:
        assert engine(folder / "run", venue=venue, **parameters).wait(240) == 0, log_of(folder)
    check_sealed(folder / "run")
    return facts_of(folder / "run"), Truth.of(folder)


def log_of(folder: Path) -> str:
    return (folder / "run/engine.log").read_text()[-3000:]


def check(facts: list[Any], truth: Truth) -> Counter[str]:
    """Hold the session against the truth; return how often each kind of fault struck."""
    placed = Counter(row["client_order_id"] for row in truth.kind("accepted") if row["action"].startswith("place"))
    assert [name for name, count in placed.items() if count > 1] == [], "an order was placed twice"

    told = [fact for fact in facts if isinstance(fact, OrderUpdate) and fact.trade_id]
    told += [fill for fact in facts if isinstance(fact, Snapshot) for fill in fact.fills]
    ours = {(fill.trade_id, fill.last_quantity) for fill in told}
    fills = truth.kind("fill")
    theirs = {(row["trade_id"], int(Decimal(row["quantity"]).scaleb(3))) for row in fills}
    assert ours == theirs, "fills are known once each"
    assert sum(Decimal(row["quantity"]) * (1 if row["side"] == "BUY" else -1) for row in fills) == 0, "flat at the end"

    replies = [fact for fact in facts if isinstance(fact, Reply)]
    for index, reply in enumerate(replies):
        if reply.outcome == "UNKNOWN" and reply.action == "submit":
            later = [r.outcome for r in replies[index + 1 :] if r.client_order_id == reply.client_order_id]
            assert (
                "ACCEPTED" in later
                or "REFUSED" in later
                or reply.client_order_id in {fact.client_order_id for fact in facts if isinstance(fact, OrderUpdate)}
            ), f"{reply.client_order_id} was never found out"
    assert sum(isinstance(fact, RoundTrip) for fact in facts) >= 3
    return Counter(row["do"] for row in truth.kind("fault"))


# --- the client alone -------------------------------------------------------------------------------------------------

ENTRY = OrderIntent(0, OrderRequest("BTCUSDT", "vt-1e", Side.BUY, OrderType.MARKET, 10), Purpose.ENTRY, 1, "test")
LOOKUP = LookupOrder(0, "BTCUSDT", "vt-1e", algo=False, reason="test")
ORDER = "POST /fapi/v1/order"

DEFINITE = ("down", "internal", "redirect")
"""Answers after which nothing was done."""
UNTOLD = [how for how in LOST if how not in (*DEFINITE, "timeout")]
"""Ways to lose an answer that tell nothing of the order; a timeout would take seconds."""

Told = tuple[str, int, str]
FATES: list[tuple[dict[str, Any], Told]] = [
    # what strikes, and: what is known of the order at once, with which code, and after it was looked up
    *(({"do": "lose_answer", "how": how}, ("UNKNOWN", 0, "ACCEPTED")) for how in UNTOLD),
    *(({"do": "swallow", "how": how}, ("UNKNOWN", 0, "REFUSED")) for how in UNTOLD),
    *(({"do": "swallow", "how": how}, ("REFUSED", 0, "REFUSED")) for how in ("down", "internal")),
    ({"do": "swallow", "how": "redirect"}, ("REFUSED", REDIRECTED, "REFUSED")),
    *(({"do": "lose_answer", "code": code}, ("UNKNOWN", code, "ACCEPTED")) for code in (-1000, -1006, -1007)),
    *(({"do": "refuse", "code": code}, ("REFUSED", code, "REFUSED")) for code in (-1008, -2010, -2019, -4131, -5028)),
    ({"do": "alter_answer", "with": {"clientOrderId": "vt-other"}}, ("UNKNOWN", 0, "ACCEPTED")),
]


@pytest.mark.parametrize(("line", "told"), FATES, ids=str)
def test_an_order_is_known_by_the_facts_alone_and_then_looked_up(
    line: dict[str, Any], told: Told, tmp_path: Path
) -> None:
    async def story(client: Client) -> None:
        rest, exchange = a_rest_client(client)
        try:
            await rest.instrument("BTCUSDT")
            reply = await rest.submit(ENTRY)
            looked_up = await rest.lookup(LOOKUP)
            assert (reply.outcome, reply.code, looked_up.outcome) == told
            assert (looked_up.order is not None) is (told[2] == "ACCEPTED")
        finally:
            await exchange.close()

    script = [Fault.model_validate({"on": ORDER, **line})]
    run(story, tmp_path, flat_tape(4_000, every_ms=10), options={"script": script}, speed=1.0)


def a_rest_client(client: Client) -> tuple[BinanceRestClient, UsdmExchange]:
    venue = client.venue
    endpoint = Endpoint.simulated(venue.rest_url, venue.ws_url)
    exchange = connect(endpoint, Credentials("sim-key", "sim-secret"), venue.now, 5_000)
    return BinanceRestClient(exchange, "sim"), exchange


def test_no_trade_is_lost_of_a_market_stream_that_is_cut_and_garbled(tmp_path: Path) -> None:
    """Every trade comes out once and in order, whatever happens to its frames.

    Backfill takes at most half of the minute's weight, so there must not be more than sixty gaps.
    """
    tape = flat_tape(5_000, every_ms=2)
    some: dict[str, Any] = {"on": "market aggTrade", "times": 0, "until_s": 4.0}
    script = [
        *({"do": do, "chance": 0.006, **some} for do in ("drop", "duplicate", "reorder")),
        {"do": "garble", "chance": 0.002, **some},
        {"do": "duplicate", "on": "market aggTrade", "at_s": 4.2, "times": 3},
        {"do": "hold", "at_s": 2.6, **some, "until_s": 3.0},
        {"do": "abort", "on": "market", "at_s": 0.6, "every_s": 0.7, "until_s": 3.6, "times": 0},
        {"do": "close", "on": "market", "at_s": 0.9, "every_s": 0.7, "until_s": 3.6, "times": 0},
        {"do": "refuse", "on": "GET /fapi/v1/aggTrades", "code": -1001, "skip": 1, "times": 2},
    ]

    async def story(client: Client) -> None:
        rest, exchange = a_rest_client(client)
        instrument = await rest.instrument("BTCUSDT")
        trades: list[int] = []
        manager = BinanceWSManager(
            exchange, rest, instrument, lambda *trade: trades.append(trade[0]), lambda event: None, client.venue.now
        )
        await manager.start(5.0)
        try:
            await until(lambda: trades and trades[-1] >= 100 + len(tape) - 20, within_s=20)
            assert trades == list(range(trades[0], trades[-1] + 1))
            assert manager.counts.gaps >= 3
            assert manager.counts.duplicates >= 3
            assert manager.counts.reconnects >= 2
        finally:
            await manager.stop()
            await exchange.close()

    options = {"script": [Fault.model_validate(line) for line in script]}
    run(story, tmp_path, tape, options=options, speed=1.0, mark_interval_s=1)


# --- whole sessions ---------------------------------------------------------------------------------------------------


def test_lost_answers_are_looked_up_and_nothing_is_done_twice(tmp_path: Path) -> None:
    facts, truth = session(tmp_path, "lost-answers", duration_s=13_000.0)  # its last exit may be lost and sent again
    struck = check(facts, truth)
    assert struck["lose_answer"] >= 3
    assert struck["swallow"] >= 1
    assert sum(isinstance(fact, Reply) and fact.outcome == "UNKNOWN" for fact in facts) >= 3


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize(
    "script",
    [
        "overload",
        "maintenance",
        "deaf",
        "storm",
    ],
)
def test_a_session_survives(script: str, seed: int, tmp_path: Path) -> None:
    facts, truth = session(tmp_path, script, seed=seed)
    assert check(facts, truth).total() >= 1
