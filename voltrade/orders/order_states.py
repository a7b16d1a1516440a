"""The tables of the order rules: states and legal transitions, reactions to refusals, retry times, and reasons.

To change what a refusal leads to, or when something is sent again, change `REFUSALS` and the times below it; what a
reaction means for an entry, a stop, an exit or a take-profit is in `order_rules`: `_on_*_refused()`. Sessions and
backtests share all of it. Compiled code has no texts, so records store the numbers at the end of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from voltrade import risk
from voltrade.model import Purpose

# --- states and transitions ----------------------------------------------------------------------------------------


class OrderState(StrEnum):
    """State of an ordinary order.

    UNKNOWN: the outcome of a request isn't known. NOT_PLACED: we concluded that it was never accepted, GONE: that it no
    longer exists; a later report may prove us wrong.
    """

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
    GONE = "GONE"


class AlgoState(StrEnum):
    """State of a conditional order. TRIGGERED doesn't mean filled: the order that it became fills or expires."""

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
    GONE = "GONE"


_O, _A = OrderState, AlgoState
_KNOWN = frozenset({_O.NEW, _O.PARTIALLY_FILLED, _O.FILLED, _O.CANCELED, _O.REJECTED, _O.EXPIRED})
_ALGO_KNOWN = frozenset({_A.NEW, _A.TRIGGERING, _A.TRIGGERED, _A.FINISHED, _A.CANCELED, _A.REJECTED, _A.EXPIRED})

MOVES: dict[OrderState, frozenset[OrderState]] = {
    _O.PENDING_SUBMIT: _KNOWN | {_O.UNKNOWN, _O.NOT_PLACED, _O.GONE, _O.PENDING_CANCEL},
    _O.NEW: (_KNOWN - {_O.NEW}) | {_O.PENDING_CANCEL, _O.GONE},
    _O.PARTIALLY_FILLED: frozenset({_O.FILLED, _O.PENDING_CANCEL, _O.CANCELED, _O.EXPIRED, _O.GONE}),
    # After a refused cancel the order goes back to the state that a look-up returns.
    _O.PENDING_CANCEL: _KNOWN | {_O.UNKNOWN, _O.GONE},
    _O.UNKNOWN: _KNOWN | {_O.NOT_PLACED, _O.GONE},
    # We concluded that it was never placed, or no longer exists, but the exchange reports it after all.
    **dict.fromkeys((_O.NOT_PLACED, _O.GONE), _KNOWN),
    **dict.fromkeys((_O.FILLED, _O.CANCELED, _O.REJECTED, _O.EXPIRED), frozenset()),
}
"""Legal transitions of an ordinary order: from a state, the states that it may go to."""

ALGO_MOVES: dict[AlgoState, frozenset[AlgoState]] = {
    _A.PENDING_SUBMIT: _ALGO_KNOWN | {_A.UNKNOWN, _A.NOT_PLACED, _A.GONE, _A.PENDING_CANCEL},
    _A.NEW: (_ALGO_KNOWN - {_A.NEW}) | {_A.PENDING_CANCEL, _A.GONE},
    _A.TRIGGERING: frozenset({_A.TRIGGERED, _A.FINISHED, _A.CANCELED, _A.REJECTED, _A.EXPIRED, _A.GONE}),
    _A.TRIGGERED: frozenset({_A.FINISHED, _A.CANCELED, _A.EXPIRED, _A.GONE}),
    _A.PENDING_CANCEL: _ALGO_KNOWN | {_A.UNKNOWN, _A.GONE},
    _A.UNKNOWN: _ALGO_KNOWN | {_A.NOT_PLACED, _A.GONE},
    **dict.fromkeys((_A.NOT_PLACED, _A.GONE), _ALGO_KNOWN),
    **dict.fromkeys((_A.FINISHED, _A.CANCELED, _A.REJECTED, _A.EXPIRED), frozenset()),
}
"""Legal transitions of a conditional order."""

CONCLUDED: frozenset[str] = frozenset({"NOT_PLACED", "GONE"})
"""States that are our conclusion: the exchange may report the order later, and it can act then."""
DONE: frozenset[str] = frozenset({"FILLED", "FINISHED", "CANCELED", "REJECTED", "EXPIRED"}) | CONCLUDED
"""States of both kinds in which an order can no longer fill or trigger, as far as we know."""

STATUS_ALIASES = {"EXPIRED_IN_MATCH": "EXPIRED"}
"""Statuses of Binance that are treated as another."""

FORCED = {
    "autoclose-": "LIQUIDATION",
    "adl_autoclose": "ADL",
    "settlement_autoclose-": "SETTLEMENT",
    "adjusted-": "ADJUSTED",
}
"""Prefixes of client order ids, and the kinds of these orders: those that the exchange itself places, and `adjusted-`,
which our books use for an exit by which they drop lots that the exchange doesn't show any more."""


# --- what a refusal leads to ---------------------------------------------------------------------------------------


class Reaction(StrEnum):
    """What a refused order leads to. After LOOKUP its outcome is unknown; else the purpose decides:

    - An entry is given up, whatever the reaction; a later signal may enter, unless HALT, or the last of
      MAX_ENTRY_FAILURES, halts trading.
    - A stop is sent again after RETRY, RECONCILE and FILTERS, up to STOP_TRIES refusals; after anything else, or where
      it is too large, the position is closed.
    - A take-profit is sent again after RETRY and FILTERS, closes the position after CLOSE, and is given up after
      anything else.
    - An exit is sent again, whatever the reaction.
    """

    DROP = "DROP"  # sending the same order again would not help
    RETRY = "RETRY"  # a temporary reason
    CLOSE = "CLOSE"  # the price has already passed the trigger: close the position at market
    LOOKUP = "LOOKUP"  # the client order id is in use: look the order up
    RECONCILE = "RECONCILE"  # the position isn't that of our books: read the account
    FILTERS = "FILTERS"  # the symbol's filters have changed: they are read again, and later orders follow them
    HALT = "HALT"  # our request or our permissions are wrong: no entries until an operator resumes trading


REFUSALS: tuple[tuple[Reaction, str, tuple[int, ...]], ...] = (
    (Reaction.RETRY, "the request was never sent, or a 503 without a code", (0,)),
    (Reaction.RETRY, "too many requests or orders, or an overload", (-1003, -1004, -1008, -1015)),
    (Reaction.RETRY, "late, or the clock is wrong: it is measured again", (-1021, -5028)),
    (Reaction.RETRY, "a listen key or conditional order that is gone", (-1125, -20124)),
    (Reaction.DROP, "refused by the matching engine", (-2010, -5021, -5022)),
    (Reaction.DROP, "no counterparty, or its price is out of the band", (-1112, -2020, -4131, -5041)),
    (Reaction.DROP, "too little balance or margin, or position too large", (-2018, -2019, -2027, -2028, -4050, -4051)),
    (Reaction.DROP, "too many open orders, or a second stop that closes all", (-2025, -4045, -4130, -20198)),
    (Reaction.DROP, "price outside the band of the moment", (-4016, -4024, -4183, -4184, -4210, -4211)),
    (Reaction.DROP, "notional too small", (-4164,)),
    (Reaction.CLOSE, "the price has passed the trigger", (-2021, -4142)),
    (Reaction.RECONCILE, "nothing to reduce, or reduced by other orders", (-2022, -2024, -4118)),
    (Reaction.LOOKUP, "the client order id is in use: an earlier attempt was accepted", (-4116, -20132)),
    (Reaction.HALT, "the server redirects: the address is wrong", (1,)),
    (Reaction.FILTERS, "price, quantity or notional against the filters", (
        -1013, -1111, *range(-4014, -4000), -4023, -4029, -4030, -5029,
    )),
    (Reaction.HALT, "the request is malformed", (
        -1014, -1020, -1023, *range(-1106, -1099), -1108, -1110, *range(-1120, -1112), -1126, -1127, -1128, -1130,
        -1131, -1136, -2007, -2026, -4000, -4015, *range(-4021, -4016), -4025, -4026, -4027, -4031, -4032, -4033, -4044,
        -4058, -4060, -4082, -4084, -4085, -4086, *range(-4139, -4134), -4165, *range(-5040, -5036), -5000, -20121,
        -20130, -20194, -20195, -20196, -20204,
    )),
    (Reaction.HALT, "a change of an order, which is never sent", (-5024, -5025, -5026, -5027, -5047)),
    (Reaction.HALT, "a setting of the account", (
        -4028, -4046, -4047, -4048, -4049, -4052, -4053, -4054, -4055, -4059, -4067, -4068, -4161, *range(-4172, -4166),
        -4202, -4203, -4205, -4206, -4208, -4209, -4403, -4531,
    )),
    (Reaction.HALT, "key, signature, address or permission", (
        -1002, -1005, -1011, -1022, -1099, -1109, -2014, -2015, -2017, -4056, -4057,
    )),
    (Reaction.HALT, "position mode, endpoint or host", (-1016, -2013, -4061, -4062, -4120)),
    (Reaction.HALT, "the symbol isn't traded", (-1121, -1122, -2016, -4022, -4104, -4140, -4141, -4144)),
    (Reaction.HALT, "only reduce-only orders are accepted", (-4087, -4105, -4106, -4107, -4189, -4400, -4401)),
    (Reaction.HALT, "the account may not trade", (-2023, -4088, -4109, -4192, -4402)),
    (Reaction.HALT, "stock perpetuals want a signed agreement: sign it in Binance's app", (-4411,)),
    (Reaction.HALT, "options and transfers", (*range(-4066, -4062), *range(-4081, -4068), -4114, -4115)),
)  # fmt: skip
"""Reactions to the codes of a refused order, and what they mean. Codes with an unknown outcome are in
`exchange.responses`. A code that isn't here halts, and its alert says so."""

REACTIONS = {code: reaction for reaction, _, codes in REFUSALS for code in codes}
"""Reaction to a refused order by Binance's code."""

_STATUS_CODES = (-1121, -1122, -2016, -4022, -4104, -4140, -4141, -4144)
FILTER_CODES = frozenset({
    *_STATUS_CODES, -4164, *(code for code, reaction in REACTIONS.items() if reaction is Reaction.FILTERS),
})  # fmt: skip
"""Codes after which the symbol's filters and status are read again."""
SETTING_CODES = frozenset({-2027, -2028, -4061, -4062})
"""Codes after which leverage, its bracket, margin type and modes are read again."""

# --- when something is tried again ---------------------------------------------------------------------------------

RETRY_AFTER_MS = 1_000
"""Pause before the first retry of a stop, take-profit or exit. The same second is: how long a fill that an order's
state reports may stay uncounted before the account is read, and from when on it needs cover; how long a closing
position may be uncovered before its stop is sent again; the least pause between look-ups of an order; that before the
look-up after a further cancel; and the first of the pauses between readings of the account, also for its wallet."""
MAX_DOUBLINGS = 6
"""For a take-profit and for reading the account, the pause doubles after each try, at most six times: to 64 s."""
STOP_TRIES = 3
"""After the reactions RETRY, RECONCILE and FILTERS a stop is sent again, until this many stops of the position were
refused; those that were never sent, or because of too many requests, don't count. A stop that was accepted counts too
once it has ended though it did not trigger and we did not cancel it; after the first such end another follows at once.
Then, after any other reaction, and at once where a stop is too large, the position is closed at market."""
STOP_STOOD_MS = 5_000
"""A stop that ended this long after it was sent, by the exchange's time, counts as the first try. One that is gone
doesn't: how long it stood isn't known."""
REST_TRIES = 3
"""After this many refused exits, a remainder smaller than one step is reported as stuck."""
RESIZE_EVERY_MS = 500
"""While an entry still fills, its stop is enlarged and its exit is extended this often, not at each fill."""
PROTECT_WITHIN_MS = 3_000
"""A position that orders at the exchange haven't covered for this long is closed at market; so is one whose triggered
stop has filled nothing for this long. After a restart the time begins again."""
RESEND_UNANSWERED_AFTER_MS = 1_500
"""A stop or exit that the exchange hasn't acknowledged after this long no longer counts, and another is sent. Once
QUICK_TRIES were sent for the position, it is up to four times as long."""
QUICK_TRIES, MAX_PROTECT_DOUBLINGS = 4, 2
"""For stops and exits the pause doubles with each try after the first QUICK_TRIES, to four times its length at most."""
LOOKUP_AFTER_MS = 2_000
"""An order that isn't conditional is looked up this long after it was sent or last updated."""
READ_ACCOUNT_EVERY_MS = 4_000
"""Shortest pause between two readings of the account because an order can't be looked up; half of the order's age,
where that is longer."""
LOOKUP_AGE_DIVISOR, LOOKUP_STOP_MS = 8, 2_000
"""An order that can't be looked up is looked up again after its age divided by this, but not before RETRY_AFTER_MS; the
stop of an open position that counts as waiting, after LOOKUP_STOP_MS at the latest."""
MAX_ENTRY_FAILURES = 3
"""Trading halts after this many entries in a row that were never placed, or refused with another reaction than RETRY
and LOOKUP. A fill begins the count anew; `resume` doesn't: the next such entry halts again."""
CODE_NEVER_SENT, CODE_TOO_MANY_REQUESTS, CODE_TOO_LARGE = 0, -1003, -4005
"""Codes of refusals: never sent (or a 503 without a code) and too many requests, which don't count as tries; a quantity
above the largest."""
TOO_LARGE_DIVISOR, MAX_EXIT_PARTS, MAX_EXIT_PARTS_PER_SECOND = 4, 8, 5
"""After a refusal as too large, an exit is sent in parts of a quarter of it, in at most MAX_EXIT_PARTS until the
exchange's filters change; at most MAX_EXIT_PARTS_PER_SECOND are sent within a second."""
ABSENCE_MARGIN_MS = 5_000
"""An answer that an order doesn't exist counts only from this long after the end of the request's recvWindow on."""
ABSENT_ANSWERS_NEEDED = 3
"""An order counts as never placed after this many such answers and a snapshot that doesn't list it."""


STOP_MISSING_TEXT = "orders at the exchange don't cover the position: closing it at market"
STOP_ENDED_TEXT = (
    f"has ended, but not by its trigger nor by us: the first {STOP_TRIES - 1} are replaced, then the position is closed"
)
REST_STUCK_TEXT = "less than a step is left, which the exchange won't close; no exit is sent until either has changed"
TOO_MANY_ORDERS_TEXT = "too many orders are open to add another: closing the position at market"


EXPECTED_REFUSALS: dict[int, str] = {
    -2021: "the price had passed the trigger before the order arrived; the position is closed at market",
    -2022: "this is expected where another order closed the position first; the account is read to make sure",
}
"""Explanations, for their alerts, of refusals that occur in normal operation."""


def refused_text(client_order_id: str, code: int, text: str) -> str:
    """Return the text of an alert about a refused order, with an explanation where the refusal is an expected one."""
    refused = f"{client_order_id} refused with {code}: {text}"
    if code not in REACTIONS:
        return f"{refused} (a code that voltrade doesn't know: no entries until you resume)"
    return f"{refused} ({EXPECTED_REFUSALS[code]})" if code in EXPECTED_REFUSALS else refused


# --- texts as numbers -------------------------------------------------------------------------------------------------

STATES = (*dict.fromkeys(str(state) for state in (*OrderState, *AlgoState)), "OTHER")
"""Every state of an ordinary or conditional order; OTHER is any unknown status, and no order ever goes to it."""

(
    PENDING_SUBMIT, NEW, PARTIALLY_FILLED, FILLED, PENDING_CANCEL, CANCELED, REJECTED, EXPIRED, UNKNOWN, NOT_PLACED,
    GONE, TRIGGERING, TRIGGERED, FINISHED, OTHER,
) = range(len(STATES))  # fmt: skip
"""Indexes of `STATES`: first those of an ordinary order, in the order of `OrderState`."""

LEGAL = np.zeros((2, len(STATES), len(STATES)), np.bool_)
"""Legal transitions as `LEGAL[kind, from, to]`: kind 0 is an ordinary order, 1 a conditional one."""
_TABLES: tuple[Mapping[Any, frozenset[Any]], ...] = (MOVES, ALGO_MOVES)
for _kind, _moves in enumerate(_TABLES):
    for _before, _allowed in _moves.items():
        LEGAL[_kind, STATES.index(_before), [STATES.index(_after) for _after in _allowed]] = True

IS_DONE = np.array([state in DONE for state in STATES])

PURPOSES = tuple(Purpose)
ENTRY, STOP, TAKE_PROFIT, EXIT = range(len(PURPOSES))

PURPOSE_COUNT = len(PURPOSES)
"""Loops over the orders of a position go by purpose first, then in the order in which the orders were sent."""

REFUSED_CODES = np.array(list(REACTIONS))
REACTIONS_TO = np.array([list(Reaction).index(reaction) for reaction in REACTIONS.values()])
DROP, RETRY, CLOSE, LOOKUP, RECONCILE, FILTERS, HALT = range(len(Reaction))
"""Indexes of `Reaction`."""

REASONS = (
    *risk.RULES, "", "SIGNAL", "PROTECT", "RESIZE", "TARGET", "STOP", "TAKE_PROFIT", "STOP_REST", "STOP_REFUSED",
    "STOP_MISSING", "TIME", "OPPOSITE_SIGNAL", "POSITION_CLOSED", "RESIZED", "STALE", "DURATION_END", "TAPE_END",
    "OUTCOME_UNKNOWN", "CANCEL_REFUSED", "CANCEL_UNKNOWN", "NOT_LISTED", "RESTART", "FILL_MISSING", "NOT_AGREED",
    "REDUCE_ONLY_REFUSED", "TOO_MANY_ORDERS", "LATE_FILL", "TAKE_PROFIT_REST", "NO_UPDATE", "LOOKUP_REFUSED",
    "LOOKUP_UNKNOWN", "FOREIGN_ORDER", "WALLET_DIFFERS", "ACCOUNT_MISMATCH", "LAST_PRICE",
)  # fmt: skip
"""Reasons of commands, look-ups and readings of the account. The first are the breaker rules, by their numbers; texts
that an operator gives are numbered after these."""
(
    NONE, SIGNALLED, PROTECT, RESIZE, TARGET, BY_STOP, BY_TAKE_PROFIT, STOP_REST, STOP_REFUSED, STOP_MISSING, BY_TIME,
    OPPOSITE_SIGNAL, POSITION_CLOSED, RESIZED, STALE, DURATION_END, TAPE_END, OUTCOME_UNKNOWN, CANCEL_REFUSED,
    CANCEL_UNKNOWN, NOT_LISTED, RESTART, FILL_MISSING, NOT_AGREED, REDUCE_ONLY_REFUSED, TOO_MANY_ORDERS, LATE_FILL,
    TAKE_PROFIT_REST, NO_UPDATE, LOOKUP_REFUSED, LOOKUP_UNKNOWN, FOREIGN_ORDER, WALLET_DIFFERS, ACCOUNT_MISMATCH,
    BY_LAST_PRICE,
) = range(len(risk.RULES), len(REASONS))  # fmt: skip

ACCEPTED, REFUSED, UNKNOWN_OUTCOME, ABSENT = range(4)
"""Outcomes of a request: those of `model.Outcome`, and ABSENT, the conclusion that there is no such order."""
