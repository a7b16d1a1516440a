"""Kinds of faults that plans are drawn from, each with what it does and which rows of the fault catalogue it reaches.

The rows of the catalogue's sections A to G that no kind reaches are in `NOT_REACHED`, each with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulation.evidence import Json
from simulation.tapes import SYMBOL

Strike = tuple[float, str, float, Json]
"""Seconds after the opening, kind, seconds that it lasts, facts."""
Draw = np.random.Generator

ARMED_UNTIL_S = 610.0
"""So long a fault waits for what it strikes: what it then delays is over before it is to be quiet."""
ORDERS = "POST /fapi/v1/(order|algoOrder)"
LOOKUPS = "GET /fapi/v1/(order|algoOrder)$"
ACCOUNT = "GET /fapi/v[123]/(account|positionRisk|openOrders|openAlgoOrders|userTrades)"


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: what it is counted by.
        group: its class: market, rest, user, life, process, clock, disk, account, operator.
        rows: of the fault catalogue.
        draw: makes its strike at a time, s.
    """

    name: str
    group: str
    rows: tuple[str, ...]
    draw: Callable[[Draw, float], Strike]


def _moment(kind: str, **facts: Any) -> Callable[[Draw, float], Strike]:
    """A fault that happens at its time, whole."""
    return lambda draw, at: (at, kind, 0.0, facts)


def _window(kind: str, shortest: float, longest: float, **facts: Any) -> Callable[[Draw, float], Strike]:
    """A fault of the venue's script that strikes whatever matches for some seconds."""

    def make(draw: Draw, at: float) -> Strike:
        for_s = float(round(draw.uniform(shortest, longest), 1))
        more = {name: value(draw) if callable(value) else value for name, value in facts.items()}
        return (at, kind, for_s, {"until_s": round(at + for_s, 1), "times": 0, **more})

    return make


def _armed(kind: str, most: int, **facts: Any) -> Callable[[Draw, float], Strike]:
    """A fault of the venue's script that waits for what it strikes, which is rare, and strikes it up to so many times.

    It waits from the first half of the session on. When it is felt the venue's log says.
    """

    def make(draw: Draw, at: float) -> Strike:
        times = 1 + int(draw.uniform(0, most))
        more = {name: value(draw) if callable(value) else value for name, value in facts.items()}
        return (max(5.0, round(at / 2, 1)), kind, 0.0, {"until_s": ARMED_UNTIL_S, "times": times, **more})

    return make


def _when_ordered(kind: str, **facts: Any) -> Callable[[Draw, float], Strike]:
    """An act at the venue on orders that work, which few do for long: it waits for the next one of ours."""

    def make(draw: Draw, at: float) -> Strike:
        more = {name: value(draw) if callable(value) else value for name, value in facts.items()}
        return (at, "when_ordered", 0.0, {"until_s": ARMED_UNTIL_S, "do": kind, **more})

    return make


def _lasting(kind: str, shortest: float, longest: float, **facts: Any) -> Callable[[Draw, float], Strike]:
    """A fault of the harness that lasts some seconds."""

    def make(draw: Draw, at: float) -> Strike:
        more = {name: value(draw) if callable(value) else value for name, value in facts.items()}
        return (at, kind, float(round(draw.uniform(shortest, longest), 1)), more)

    return make


def _timed(kind: str, shortest: float, longest: float, **facts: Any) -> Callable[[Draw, float], Strike]:
    """A fault of the venue's script that happens at a time and states how long it lasts."""

    def make(draw: Draw, at: float) -> Strike:
        for_s = float(round(draw.uniform(shortest, longest), 1))
        more = {name: value(draw) if callable(value) else value for name, value in facts.items()}
        return (at, kind, for_s, {"for_s": for_s, **more})

    return make


def one_of(*values: Any) -> Callable[[Draw], Any]:
    return lambda draw: values[int(draw.integers(len(values)))]


def between(low: float, high: float) -> Callable[[Draw], float]:
    return lambda draw: float(round(draw.uniform(low, high), 4))


def _by_hand(draw: Draw, at: float) -> Strike:
    side = "BUY" if draw.random() < 0.5 else "SELL"
    facts = {
        "symbol": SYMBOL,
        "side": side,
        "quantity": f"0.{int(draw.integers(2, 99)):03d}",
        "reduceOnly": bool(draw.random() < 0.5),
    }
    return (at, "order", 0.0, {"with": facts})


def _sticking(draw: Draw, at: float) -> Strike:
    return (at, "stick_triggers", 0.0, {"with": {"symbol": SYMBOL}})


def _jump(low: float, high: float, **facts: Any) -> Callable[[Draw, float], Strike]:
    """A jump of the tape's prices by a fraction, at least a tenth of the widest one."""

    def make(draw: Draw, at: float) -> Strike:
        by = float(round(draw.uniform(0.1, 1.0) * one_of(low, high)(draw), 4))
        return (at, "jump", 0.0, {"with": {"symbol": SYMBOL, "by": by, **facts}})

    return make


def _spent(draw: Draw, at: float) -> Strike:
    """Others at the address use up most of a minute's weight, or more than is there."""
    return (at, "spend_weight", 0.0, {"with": {"weight": int(draw.integers(1_500, 2_500))}})


def _foreign(kind: str, **facts: Any) -> Callable[[Draw, float], Strike]:
    """An order that another hand places and leaves, some percent above the market or below."""

    def make(draw: Draw, at: float) -> Strike:
        side, price = one_of(("BUY", "77000.0"), ("SELL", "83000.0"))(draw)
        chosen = {name: price if value == "$price" else value for name, value in facts.items()}
        return (at, kind, 0.0, {"with": {"symbol": SYMBOL, "side": side, "quantity": "0.010", **chosen}})

    return make


_resting = _foreign("order", type="LIMIT", price="$price")
_foreign_stop = _foreign("algo", type="TRAILING_STOP_MARKET", callbackRate=5)

REFUSING = (-2023, -4088, -4109, -4192, -4402, -4411)
REDUCING = (-4087, -4105, -4400, -4401)
COARSER = (
    {"tick_multiple": 50},
    {"step_multiple": 7},
    {"tick_multiple": 10, "step_multiple": 10},
    {"min_notional": 2 * 10**11},
)
"""Filters that become coarser: tick, step, both, and a least notional of 2,000 USDT."""
BRACKETS = [[20, 20_000, "0.01"], [10, 50_000, "0.02"], [5, 1_000_000, "0.05"]]

CHANCE = between(0.2, 1.0)
HOW = one_of("unknown", "empty", "truncated", "html", "gateway", "timeout", "abort")

KINDS: tuple[Kind, ...] = (
    # --- A: market data ---
    Kind("market abort", "market", ("A1",), _moment("abort", on="market")),
    Kind("market close", "market", ("A1", "A11"), _moment("close", on="market")),
    Kind("market dead", "market", ("A2",), _timed("black_hole", 15, 40, on="market")),
    Kind("market deaf", "market", ("A2",), _lasting("deaf", 10, 40, category="market")),
    Kind("trades dropped", "market", ("A3",), _window("drop", 1, 20, on="market aggTrade", chance=CHANCE)),
    Kind("gap unfillable", "market", ("A4",), _window("refuse", 20, 40, on="GET /fapi/v1/aggTrades", code=-1001)),
    Kind("trades twice", "market", ("A5",), _window("duplicate", 5, 60, on="market aggTrade", chance=CHANCE)),
    Kind(
        "trades reordered", "market", ("A6",), _window("reorder", 5, 60, on="market aggTrade", chance=between(0.1, 0.6))
    ),
    Kind(
        "trades late",
        "market",
        ("A6",),
        _window("delay", 5, 30, on="market aggTrade", for_s=between(1, 30), chance=between(0.1, 0.5)),
    ),
    Kind("trades held", "market", ("A6", "A10"), _window("hold", 5, 60, on="market aggTrade")),
    Kind("garbage", "market", ("A7",), _window("garble", 5, 60, on="market", chance=between(0.1, 0.5))),
    Kind(
        "bad price",
        "market",
        ("A8",),
        _window("alter", 2, 20, on="market aggTrade", chance=between(0.1, 0.5), **{"with": {"p": "NaN"}}),
    ),
    Kind(
        "bad quantity",
        "market",
        ("A8",),
        _window("alter", 2, 20, on="market aggTrade", chance=between(0.1, 0.5), **{"with": {"q": "0"}}),
    ),
    Kind(
        "wrong symbol",
        "market",
        ("A12",),
        _window("alter", 2, 20, on="market aggTrade", chance=CHANCE, **{"with": {"s": "ETHUSDT"}}),
    ),
    Kind(
        "trades far reordered",
        "market",
        ("A6",),
        _window(
            "reorder", 5, 30, on="market aggTrade", chance=between(0.1, 0.5), **{"with": one_of({"by": 3}, {"by": 40})}
        ),
    ),
    Kind(
        "garbage frames",
        "market",
        ("A7",),
        _window(
            "garble", 5, 30, on="market", chance=between(0.1, 0.5), **{"with": one_of({"as": "text"}, {"as": "binary"})}
        ),
    ),
    Kind(
        "field missing",
        "market",
        ("A8",),
        _window("alter", 2, 20, on="market aggTrade", chance=between(0.1, 0.5), without=one_of(["p"], ["q"], ["T"])),
    ),
    Kind(
        "spike",
        "market",
        ("A9",),
        _jump(-0.5, 0.5, trades=1, marks=False),
    ),
    Kind("market flapping", "market", ("A1",), _lasting("flap", 5, 40, category="market", lost=True)),
    Kind("market undialable", "market", ("A1",), _lasting("undialable", 5, 40, category="market", lost=True)),
    Kind("slow consumer", "process", ("A13", "E7"), _lasting("stop", 1, 20)),
    # --- B: REST ---
    Kind("swallowed", "rest", ("B1", "B3"), _window("swallow", 10, 60, on=ORDERS, how=HOW, chance=CHANCE)),
    Kind("answer lost", "rest", ("B2", "B3", "B5"), _window("lose_answer", 10, 60, on=ORDERS, how=HOW, chance=CHANCE)),
    Kind(
        "unknown code",
        "rest",
        ("B5",),
        _window("lose_answer", 10, 60, on=ORDERS, code=one_of(-1000, -1006, -1007), chance=CHANCE),
    ),
    Kind("overload", "rest", ("B4",), _window("refuse", 10, 60, on=ORDERS, code=one_of(-1008, -1001), chance=CHANCE)),
    Kind(
        "late order",
        "rest",
        ("B6",),
        _armed("late", 3, on="POST /fapi/v1/order", for_s=between(1, 40), chance=between(0.2, 0.7)),
    ),
    Kind(
        "late stop",
        "rest",
        ("B6",),
        _armed("late", 3, on="POST /fapi/v1/algoOrder", for_s=between(1, 40), chance=between(0.2, 0.7)),
    ),
    Kind("read lag", "rest", ("B7",), _armed("refuse", 6, on=LOOKUPS, code=-2013)),
    Kind(
        "old lists",
        "rest",
        ("B7", "F10"),
        _window("stale", 5, 30, on=f"{ACCOUNT}|{LOOKUPS}", for_s=between(1, 30), chance=CHANCE),
    ),
    Kind(
        "slow request",
        "rest",
        ("B6", "B14"),
        _armed("delay_request", 4, on=ORDERS, for_s=between(0.5, 8), chance=between(0.2, 0.7)),
    ),
    Kind(
        "late and checked",
        "rest",
        ("B6",),
        _window(
            "late", 10, 40, on=ORDERS, for_s=between(1, 40), chance=between(0.2, 0.7), **{"with": {"recheck": True}}
        ),
    ),
    Kind("internal error", "rest", ("B4",), _window("swallow", 10, 60, on=ORDERS, how="internal", chance=CHANCE)),
    Kind("lookup fails", "rest", ("B8",), _armed("refuse", 8, on=LOOKUPS, code=-1001)),
    Kind("account fails", "rest", ("B8",), _window("refuse", 20, 90, on=ACCOUNT, code=-1001)),
    Kind("too many", "rest", ("B9",), _timed("ban", 1, 40)),
    Kind("ban", "rest", ("B9",), _timed("ban", 5, 40, code=418)),
    Kind("ban unsaid", "rest", ("B9",), _timed("ban", 1, 40, code=one_of(0, 418), **{"with": {"retry_after": False}})),
    Kind("weight of others", "rest", ("B9",), _spent),
    Kind(
        "other page",
        "rest",
        ("B10",),
        _window("swallow", 5, 30, on="/fapi/", how=one_of("region", "challenge", "redirect"), chance=CHANCE),
    ),
    Kind("unreachable", "rest", ("B8", "B10"), _timed("unreachable", 1, 40)),
    Kind("forbidden", "rest", ("B10",), _window("swallow", 5, 30, on="/fapi/", how="forbidden", chance=CHANCE)),
    Kind(
        "clock of the exchange",
        "clock",
        ("B11",),
        _timed("skew_clock", 5, 60, **{"with": one_of({"ms": 7_000}, {"ms": -7_000}, {"ms": 2_000})}),
    ),
    Kind("duplicate id", "rest", ("B12",), _armed("refuse", 3, on="POST /fapi/v1/order", code=-4116, chance=CHANCE)),
    Kind(
        "refused",
        "rest",
        ("B14",),
        _armed("refuse", 8, on=ORDERS, code=one_of(-2010, -2019, -2021, -2022, -4131, -4164, -4005), chance=CHANCE),
    ),
    Kind("slow answers", "rest", ("B15", "C4"), _window("delay_answer", 10, 60, on=ORDERS, for_s=between(0.3, 4.5))),
    Kind(
        "wrong order",
        "rest",
        ("B16",),
        _armed("alter_answer", 3, on="POST /fapi/v1/order", **{"with": {"clientOrderId": "x"}}),
    ),
    Kind(
        "wrong fill",
        "rest",
        ("B16",),
        _armed("alter_answer", 3, on="(POST|GET) /fapi/v1/order$", **{"with": {"executedQty": "99"}}),
    ),
    Kind(
        "account refused",
        "account",
        ("B14",),
        _timed("restrict", 5, 60, **{"with": one_of(*({"code": code} for code in REFUSING))}),
    ),
    Kind(
        "only reducing",
        "account",
        ("B14",),
        _timed("restrict", 5, 60, **{"with": one_of(*({"code": code, "spares_reducing": True} for code in REDUCING))}),
    ),
    Kind("key revoked", "rest", ("B17",), _armed("refuse", 4, on=ORDERS, code=-2015)),
    Kind("cut network", "rest", ("A1", "B8"), _lasting("cut", 1, 40)),
    Kind("slow network", "rest", ("B15",), _lasting("slow", 5, 60, by_s=between(0.2, 2.0))),
    # --- C: user data ---
    Kind("listen key", "user", ("C1",), _moment("expire_listen_key")),
    Kind("listen key closed", "user", ("C1",), _moment("expire_listen_key", **{"with": {"told": False}})),
    Kind("listen key replaced", "user", ("C1",), _moment("new_listen_key")),
    Kind("user lag", "user", ("C3", "C4"), _window("lag", 10, 60, on="user", for_s=between(0.5, 8.0))),
    Kind("user silent", "user", ("C2",), _window("drop", 10, 120, on="user")),
    Kind(
        "wrong event",
        "user",
        ("C8", "B16"),
        _armed("alter", 4, on="user ORDER_TRADE_UPDATE", **{"with": one_of({"o.c": "x"}, {"o.z": "99"})}),
    ),
    Kind(
        "account in part",
        "user",
        ("C8",),
        _armed("alter", 6, on="user ACCOUNT_UPDATE", chance=CHANCE, without=one_of(["a.B"], ["a.P"], ["a.B.0.bc"])),
    ),
    Kind("user deaf", "user", ("C2",), _lasting("deaf", 10, 120, category="private")),
    Kind("user abort", "user", ("C2",), _moment("abort", on="private")),
    Kind("user flapping", "user", ("C2",), _lasting("flap", 5, 40, category="private", lost=True)),
    Kind("user undialable", "user", ("C2",), _lasting("undialable", 5, 40, category="private", lost=True)),
    Kind("user dropped", "user", ("C3", "C5"), _window("drop", 10, 60, on="user ORDER_TRADE_UPDATE", chance=CHANCE)),
    Kind("user twice", "user", ("C3",), _window("duplicate", 10, 60, on="user", chance=CHANCE)),
    Kind("user reordered", "user", ("C3", "C4"), _window("reorder", 10, 60, on="user", chance=between(0.2, 0.7))),
    Kind("user late", "user", ("C3", "C4"), _lasting("user_late", 10, 60, by_s=between(0.5, 8.0))),
    Kind("algo dropped", "user", ("C6",), _window("drop", 10, 60, on="user ALGO_UPDATE", chance=CHANCE)),
    Kind("account dropped", "user", ("C8",), _window("drop", 10, 60, on="user ACCOUNT_UPDATE", chance=CHANCE)),
    # --- D: order life ---
    Kind("stops by hand", "life", ("D5",), _moment("cancel_stops", **{"with": {"symbol": SYMBOL}})),
    Kind("all by hand", "life", ("D1",), _when_ordered("cancel_all", **{"with": {"symbol": SYMBOL}})),
    Kind("cancel lost", "life", ("D2", "D3"), _window("lose_answer", 20, 90, on="DELETE", how=HOW, chance=CHANCE)),
    Kind(
        "cancel refused",
        "life",
        ("D2", "D3"),
        _armed("refuse", 4, on="DELETE /fapi/v1/(order|algoOrder)$", code=one_of(-2011, -1015), chance=CHANCE),
    ),
    Kind("cancel swallowed", "life", ("D3", "D4"), _window("swallow", 20, 90, on="DELETE", how=HOW, chance=CHANCE)),
    Kind("stuck trigger", "life", ("D6",), _sticking),
    Kind(
        "thin book",
        "life",
        ("D6",),
        _timed("thin_book", 60, 120, **{"with": {"symbol": SYMBOL, "quantity": "0.001"}}),
    ),
    Kind("stops expired", "life", ("D5",), _moment("expire_stops", **{"with": {"symbol": SYMBOL}})),
    Kind("stops gone", "life", ("D5",), _moment("forget_stops", **{"with": {"symbol": SYMBOL}})),
    Kind(
        "orders expired",
        "life",
        ("D1", "D8"),
        _when_ordered(
            "expire_orders",
            **{"with": one_of({"symbol": SYMBOL, "status": "EXPIRED_IN_MATCH", "reason": "1"}, {"symbol": SYMBOL})},
        ),
    ),
    Kind("several assets by hand", "account", ("D7",), _moment("multi_assets")),
    Kind("leverage by hand", "account", ("D7",), _moment("leverage", **{"with": {"symbol": SYMBOL, "leverage": 3}})),
    # --- E: process and host ---
    Kind("kill", "process", ("E1",), _moment("kill")),
    Kind(
        "kill at send",
        "process",
        ("E1",),
        lambda d, at: (
            at,
            "kill_at",
            0.0,
            {"what": one_of("send POST", "sent POST", "answer POST", "frame private")(d)},
        ),
    ),
    Kind(
        "kill at write",
        "process",
        ("E1",),
        lambda d, at: (
            at,
            "kill_at",
            0.0,
            {"what": f"write {one_of('before', 'after')(d)} commit", "skip": int(d.integers(0, 30))},
        ),
    ),
    Kind(
        "kill twice",
        "process",
        ("E2",),
        lambda d, at: (at, "kill_twice", 0.0, {"again_s": float(round(d.uniform(1.6, 3.0), 2))}),
    ),
    Kind("torn write", "disk", ("E3",), _moment("kill", torn=True)),
    Kind("lost writes", "disk", ("E3",), lambda d, at: (at, "kill", 0.0, {"lost": int(d.integers(1, 12))})),
    Kind("disk full", "disk", ("E4",), _lasting("disk_full", 2, 20)),
    Kind(
        "clock step",
        "clock",
        ("E6",),
        _lasting("clock", 5, 60, ms=one_of(-3_600_000, -20_000, -1_000, 1_000, 20_000, 3_600_000)),
    ),
    Kind("suspended", "clock", ("E6",), _lasting("stop", 20, 90)),
    # --- F: account and venue ---
    Kind("by hand", "account", ("F1",), _by_hand),
    Kind("order by hand", "account", ("F1",), _resting),
    Kind("stop by hand", "account", ("F1",), _foreign_stop),
    Kind(
        "other program",
        "account",
        ("F1",),
        _moment("twap", **{"with": {"symbol": SYMBOL, "side": "SELL", "quantity": "0.010"}}),
    ),
    Kind(
        "liquidated in part",
        "account",
        ("F3",),
        lambda d, at: (
            at,
            "liquidate",
            0.0,
            {"every_s": 2.0, "times": 3, "with": {"symbol": SYMBOL, "part": between(0.1, 0.6)(d)}},
        ),
    ),
    Kind("deleveraged", "account", ("F3",), _moment("deleverage", **{"with": {"symbol": SYMBOL}})),
    Kind(
        "liquidated",
        "account",
        ("F3",),
        lambda d, at: (at, "mark", 0.0, {"with": {"symbol": SYMBOL, "price": one_of("40000", "160000")(d)}}),
    ),
    Kind("maintenance", "account", ("F4",), _timed("maintenance", 5, 60)),
    Kind("filters", "account", ("F6",), _moment("filters", **{"with": {"symbol": SYMBOL, "market_max_quantity": 40}})),
    Kind(
        "coarser filters",
        "account",
        ("F6",),
        lambda d, at: (at, "filters", 0.0, {"with": {"symbol": SYMBOL, **one_of(*COARSER)(d)}}),
    ),
    Kind(
        "not trading",
        "account",
        ("F5",),
        _timed(
            "status",
            5,
            60,
            **{
                "with": one_of(
                    *({"symbol": SYMBOL, "status": status} for status in ("TRADING_HALT", "BREAK", "PRE_SETTLE"))
                )
            },
        ),
    ),
    Kind("brackets cut", "account", ("F7",), _moment("brackets", **{"with": {"symbol": SYMBOL, "brackets": BRACKETS}})),
    Kind("gap", "market", ("F8",), _jump(-0.03, 0.03)),
    Kind(
        "money moves",
        "account",
        ("F7",),
        lambda d, at: (
            at,
            "move_money",
            0.0,
            {"with": one_of({"amount": "-25"}, {"amount": "1", "asset": "BNB", "reason": "ASSET_TRANSFER"})(d)},
        ),
    ),
    Kind("deposit", "account", ("F7",), _moment("deposit", **{"with": {"amount": "500"}})),
    Kind("withdrawal", "account", ("F7",), _moment("withdraw", **{"with": {"amount": "500"}})),
    Kind(
        "position empty",
        "rest",
        ("F10",),
        _armed("alter_answer", 3, on="GET /fapi/v3/positionRisk", chance=CHANCE, **{"with": {"": []}}),
    ),
    # --- G: controls ---
    Kind(
        "operator",
        "operator",
        ("G5",),
        lambda d, at: (at, "operator", 0.0, {"action": one_of("pause", "resume", "flatten", "reduce")(d)}),
    ),
)

NOT_REACHED = {
    "B13": "the venue refuses an id that was used before while it is open, and the engine uses each once",
    "C7": "the mark jumps with or without a cut stream, by chance: not as a kind of its own",
    "E5": "a corrupt header or another's file stops the start: tests of the journal",
    "E8": "papermill and kernels are real processes: tests/stories/test_kills.py",
    "E9": "the stop command is an operator's command; its file and status are a process's",
    "E10": "two engines at once: tests of the ledger, and stories",
    "E11": "locks of a process that died are the system's: tests of the ledger",
    "E12": "a week: the order of a week has its own test",
    "E13": "a notebook's cells: tests of the session",
    "E14": "there is no guardian yet",
    "F2": "stories: a position or orders at the start",
    "F9": "the wire's part",
    "G1": "a rule that signals on every bar is drawn among the settings",
    "G2": "refused before the wire: tests of risk and config",
    "G3": "tests of config",
    "G4": "limits are out of the way in most plans: tests of risk, and stories",
    "G6": "the oracles compare what left with what was intended, in every session",
}

RECOVERABLE = frozenset(
    [f"A{n}" for n in (1, 2, 3, 4, 5, 6, 11, 13)]
    + [f"B{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15)]
    + [f"C{n}" for n in range(1, 7)]
    + [f"D{n}" for n in range(1, 5)]
    + [f"E{n}" for n in (1, 2, 3, 6, 7)]
)
"""Rows after which the session must trade on as if nothing had been."""
_BUT = frozenset({"all by hand", "lost writes"})
LATER = frozenset({"cancel refused", "market flapping", "market undialable", "user flapping", "user undialable"})
"""Kinds that are drawn apart from the others, whose plans they leave as they were."""
RECOVERABLE_KINDS = tuple(kind for kind in KINDS if set(kind.rows) <= RECOVERABLE and kind.name not in _BUT)
NAMED = {kind.name: kind for kind in KINDS}


def row_of(name: str) -> str:
    """Return the row that a kind of fault is judged by: one that can't be recovered from, where it has such a one."""
    kind = NAMED[name]
    if kind.name in _BUT:
        return "F1"
    return next((row for row in kind.rows if row not in RECOVERABLE), kind.rows[0])
