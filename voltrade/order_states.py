"""The tables of an order's life: its states and legal moves, what a refusal leads to, and the words that rows hold.

Whoever wants to change what a rejection or a retry leads to changes `REACTIONS` here; `order_rules` acts on it, live
and in a backtest alike. Records hold a word's place among its kind, since compiled code has no texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from voltrade import risk
from voltrade.model import Purpose

# --- the life of an order ------------------------------------------------------------------------------------------


class OrderState(StrEnum):
    """State of an ordinary order. UNKNOWN means that a request's outcome isn't known; NOT_PLACED, that it never was."""

    PENDING_SUBMIT = "PENDING_SUBMIT"
    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    PENDING_CANCEL = "PENDING_CANCEL"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    NOT_PLACED = "NOT_PLACED"


class AlgoState(StrEnum):
    """State of a conditional order. A triggered order isn't a filled one: its child order fills or expires."""

    PENDING_SUBMIT = "PENDING_SUBMIT"
    NEW = "NEW"
    TRIGGERING = "TRIGGERING"
    TRIGGERED = "TRIGGERED"
    FINISHED = "FINISHED"
    PENDING_CANCEL = "PENDING_CANCEL"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    NOT_PLACED = "NOT_PLACED"


_O, _A = OrderState, AlgoState
_KNOWN = frozenset({_O.NEW, _O.PARTIALLY_FILLED, _O.FILLED, _O.CANCELED, _O.REJECTED, _O.EXPIRED})
_ALGO_KNOWN = frozenset({_A.NEW, _A.TRIGGERING, _A.TRIGGERED, _A.FINISHED, _A.CANCELED, _A.REJECTED, _A.EXPIRED})

MOVES: dict[OrderState, frozenset[OrderState]] = {
    _O.PENDING_SUBMIT: _KNOWN | {_O.UNKNOWN, _O.NOT_PLACED, _O.PENDING_CANCEL},
    _O.NEW: frozenset({_O.PARTIALLY_FILLED, _O.FILLED, _O.PENDING_CANCEL, _O.CANCELED, _O.EXPIRED, _O.REJECTED}),
    _O.PARTIALLY_FILLED: frozenset({_O.FILLED, _O.PENDING_CANCEL, _O.CANCELED, _O.EXPIRED}),
    # A refused cancel puts the order back to what a look-up then says.
    _O.PENDING_CANCEL: _KNOWN | {_O.UNKNOWN},
    _O.UNKNOWN: _KNOWN | {_O.NOT_PLACED},
    # Concluded absent, yet the exchange speaks of it: the order is adopted.
    _O.NOT_PLACED: _KNOWN,
    **dict.fromkeys((_O.FILLED, _O.CANCELED, _O.REJECTED, _O.EXPIRED), frozenset()),
}

ALGO_MOVES: dict[AlgoState, frozenset[AlgoState]] = {
    _A.PENDING_SUBMIT: _ALGO_KNOWN | {_A.UNKNOWN, _A.NOT_PLACED, _A.PENDING_CANCEL},
    _A.NEW: (_ALGO_KNOWN - {_A.NEW}) | {_A.PENDING_CANCEL},
    _A.TRIGGERING: frozenset({_A.TRIGGERED, _A.FINISHED, _A.CANCELED, _A.REJECTED, _A.EXPIRED}),
    _A.TRIGGERED: frozenset({_A.FINISHED, _A.CANCELED, _A.EXPIRED}),
    _A.PENDING_CANCEL: _ALGO_KNOWN | {_A.UNKNOWN},
    _A.UNKNOWN: _ALGO_KNOWN | {_A.NOT_PLACED},
    _A.NOT_PLACED: _ALGO_KNOWN,
    **dict.fromkeys((_A.FINISHED, _A.CANCELED, _A.REJECTED, _A.EXPIRED), frozenset()),
}

DONE: frozenset[str] = frozenset({"FILLED", "FINISHED", "CANCELED", "REJECTED", "EXPIRED", "NOT_PLACED"})
"""States, of both kinds, in which an order can do nothing more."""

STATUS_ALIASES = {"EXPIRED_IN_MATCH": "EXPIRED"}

FORCED = {
    "autoclose-": "LIQUIDATION",
    "adl_autoclose": "ADL",
    "settlement_autoclose-": "SETTLEMENT",
    "adjusted-": "ADJUSTED",
}
"""Beginnings of the client order ids of orders that the exchange itself sends, and what they are."""


class Reaction(StrEnum):
    """What a refused order leads to."""

    DROP = "DROP"  # the decision is dropped; a later bar decides anew
    RETRY = "RETRY"  # not executed for a passing reason: later, with a new id
    LEAVE = "LEAVE"  # the price is already beyond the trigger: leave at market
    LOOKUP = "LOOKUP"  # something under this id is alive: ask
    RECONCILE = "RECONCILE"  # the position isn't what we think: ask for the account
    HALT = "HALT"  # our request or our rights are wrong: no new risk until a person has looked


REACTIONS: dict[int, Reaction] = {
    0: Reaction.RETRY,  # never left this machine
    -1003: Reaction.RETRY,  # too many requests
    -1008: Reaction.RETRY,  # throttled
    -1015: Reaction.RETRY,  # too many orders
    -1021: Reaction.RETRY,  # outside recvWindow: the clock is measured anew
    -5028: Reaction.RETRY,  # outside the matching engine's recvWindow
    -1016: Reaction.RETRY,  # service shutting down
    -1022: Reaction.HALT,  # signature
    -2014: Reaction.HALT,  # key format
    -2015: Reaction.HALT,  # key, address or permission
    -1102: Reaction.HALT,  # parameter
    -1111: Reaction.HALT,  # precision
    -1121: Reaction.HALT,  # symbol
    -4001: Reaction.HALT,  # price below the minimum
    -4002: Reaction.HALT,  # price above the maximum
    -4003: Reaction.HALT,  # quantity too small
    -4005: Reaction.HALT,  # quantity too large
    -4014: Reaction.HALT,  # tick
    -4015: Reaction.HALT,  # client id
    -4061: Reaction.HALT,  # position mode
    -4120: Reaction.HALT,  # wrong endpoint
    -2010: Reaction.DROP,  # refused by the matching engine
    -2018: Reaction.DROP,  # balance
    -2019: Reaction.DROP,  # margin
    -2020: Reaction.DROP,  # unable to fill
    -2025: Reaction.DROP,  # too many open orders
    -2027: Reaction.DROP,  # position limit at this leverage
    -4016: Reaction.DROP,  # above the price band
    -4024: Reaction.DROP,  # below the price band
    -4131: Reaction.DROP,  # counterparty price outside the band
    -4164: Reaction.DROP,  # notional too small
    -5021: Reaction.DROP,  # FOK
    -5022: Reaction.DROP,  # post-only
    -2021: Reaction.LEAVE,  # would trigger at once
    -2022: Reaction.RECONCILE,  # reduce-only refused
    -4118: Reaction.RECONCILE,  # reduce-only margin check
    -4116: Reaction.LOOKUP,  # client id in use: the first attempt lives
}
"""Reaction to a refused order by Binance's code; a code that isn't here halts."""

RETRY_AFTER_MS = 1_000
DOUBLINGS = 6
"""What is refused, or disagrees, again and again is tried after twice as long each time, up to 2^6 seconds."""
STOP_TRIES = 3
RESIZE_EVERY_MS = 500
"""While an entry still fills, its stop is made larger this often, not at each of what may be fifty fills."""
PROTECT_WITHIN_MS = 3_000
"""Longest time that any of a position may be without cover at the exchange before it is left at market."""
EXIT_WITHIN_MS = 1_500
"""A stop or an exit that the exchange has not acknowledged after so long counts no more, and another is sent."""
QUICK_TRIES, PROTECT_DOUBLINGS = 4, 2
"""After so many of them it is twice as long each time, up to four times."""
LOOK_WITHIN_MS = 2_000
"""An order that takes liquidity is looked up so long after its last news."""
READ_EVERY_MS = 4_000
"""The account is read at most so often for the sake of an order that can't be looked up; the older it is, the less."""
PARTS_OF_AGE = 8
"""An order that can't be looked up is asked for again after an eighth of its age, a second at least."""
MOST_ENTRY_FAILURES = 3
"""So many entries in a row may be refused, for no passing reason, or never be placed."""
NEVER_SENT, SILENCE, TOO_LARGE = 0, -1003, -4005
"""Codes of refusals: it never left this machine, or the exchange wants silence, neither of which is a try; more than
the exchange takes in one order."""
PARTS_OF_TOO_LARGE, MOST_PARTS = 4, 6
"""What is too large is sent in so many parts, and at most so many a second."""
ABSENCE_MARGIN_MS = 5_000
ABSENCE_ANSWERS = 3


STOP_MISSING_TEXT = "orders at the exchange don't cover the position: leaving at market"
TOO_MANY_ORDERS_TEXT = "more orders are open than there is room for: leaving at market"


EXPECTED: dict[int, str] = {
    -2021: "the price had passed the trigger before the order arrived; the position is closed at market",
    -2022: "this is expected where another order closed the position first; the account is asked to make sure",
}
"""What a refusal means that the course of things brings, for people who see its alert."""


def refused_text(client_order_id: str, code: int, text: str) -> str:
    """Say for people that the exchange refused an order, and what that means where nobody did wrong."""
    said = f"{client_order_id} refused with {code}: {text}"
    return f"{said} ({EXPECTED[code]})" if code in EXPECTED else said


# --- words as numbers -------------------------------------------------------------------------------------------------

STATES = (*dict.fromkeys(str(state) for state in (*OrderState, *AlgoState)), "OTHER")
"""Every state of an order or a conditional order; OTHER is what no table knows, and no order ever gets to."""

(
    PENDING_SUBMIT, NEW, PARTIALLY_FILLED, FILLED, PENDING_CANCEL, CANCELED, REJECTED, EXPIRED, UNKNOWN, NOT_PLACED,
    TRIGGERING, TRIGGERED, FINISHED, OTHER,
) = range(len(STATES))  # fmt: skip
"""Their places: those of an ordinary order first, in the order of `OrderState`."""

LEGAL = np.zeros((2, len(STATES), len(STATES)), np.bool_)
"""Legal moves of an ordinary order (0) and a conditional one (1), from and to: `MOVES` and `ALGO_MOVES`."""
_TABLES: tuple[Mapping[Any, frozenset[Any]], ...] = (MOVES, ALGO_MOVES)
for _kind, _moves in enumerate(_TABLES):
    for _before, _allowed in _moves.items():
        LEGAL[_kind, STATES.index(_before), [STATES.index(_after) for _after in _allowed]] = True

IS_DONE = np.array([state in DONE for state in STATES])

PURPOSES = tuple(Purpose)
ENTRY, STOP, TAKE_PROFIT, EXIT = range(len(PURPOSES))

OF_EACH_PURPOSE = len(PURPOSES)
"""Orders of a position are gone through by their purpose, and among those of one purpose in the order they came."""

REFUSED_CODES = np.array(list(REACTIONS))
REACTIONS_TO = np.array([list(Reaction).index(reaction) for reaction in REACTIONS.values()])
DROP, RETRY, LEAVE, ASK, RECONCILE, HALT = range(len(Reaction))
"""Places of the reactions; ASK is `Reaction.LOOKUP`."""

REASONS = (
    *risk.RULES, "", "SIGNAL", "PROTECT", "RESIZE", "TARGET", "STOP", "TAKE_PROFIT", "STOP_REST", "STOP_REFUSED",
    "STOP_MISSING", "TIME", "OPPOSITE_SIGNAL", "POSITION_CLOSED", "RESIZED", "STALE", "DURATION_END", "TAPE_END",
    "OUTCOME_UNKNOWN", "CANCEL_REFUSED", "CANCEL_UNKNOWN", "NOT_LISTED", "RESTART", "FILL_MISSING", "NOT_AGREED",
    "REDUCE_ONLY_REFUSED", "TOO_MANY_ORDERS", "LATE_FILL",
)  # fmt: skip
"""Why something was done. A breaker rule's own number is its reason; what a person says has a number behind these."""
(
    NONE, SIGNALLED, PROTECT, RESIZE, TARGET, BY_STOP, BY_TAKE_PROFIT, STOP_REST, STOP_REFUSED, STOP_MISSING, BY_TIME,
    OPPOSITE_SIGNAL, POSITION_CLOSED, RESIZED, STALE, DURATION_END, TAPE_END, OUTCOME_UNKNOWN, CANCEL_REFUSED,
    CANCEL_UNKNOWN, NOT_LISTED, RESTART, FILL_MISSING, NOT_AGREED, REDUCE_ONLY_REFUSED, TOO_MANY_ORDERS, LATE_FILL,
) = range(len(risk.RULES), len(REASONS))  # fmt: skip

ACCEPTED, REFUSED, UNANSWERED, ABSENT = range(4)
"""What an answer says: `model.Outcome`, and that it is agreed at last that there is no such order."""
