"""The outcome of a request by Binance's response: one table, in which the first matching rule decides.

The outcome depends on HTTP status, Binance's code and the text, never on an exception's class, since ccxt uses the same
class for refusals and for unknown outcomes. Without a matching rule the outcome is UNKNOWN, and the order is queried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from voltrade.model import Outcome

Verb = Literal["GET", "POST", "PUT", "DELETE"]

NOT_SENT = -1
"""Instead of an HTTP status: the request was not sent, since no connection was made."""
NO_ANSWER = 0
"""Instead of an HTTP status: the request may have been sent, but no valid response came."""

REDIRECTED = 1
"""Instead of Binance's code, which is negative: the server redirects to another address, which is never followed."""

LOST = frozenset({-1000, -1001, -1006, -1007, -1010})
"""The gateway does not know what the matching engine did."""

EXISTS = frozenset({-4116, -20132})
"""A duplicate client order id: an earlier attempt has succeeded."""

IN_MOTION = frozenset({-2012, -4083, -4117, -5043})
"""The order is triggering, is being changed, or was part of a batch that failed: only a query tells its state."""

ABSENT = frozenset({-2013, -20124})
"""The answer to a query for an order, or a conditional order, that does not exist."""

THROTTLED = frozenset({-1003, -1008, -1015})
"""Refused by the gateway for too many requests, or in an overload."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the table; an empty set or text matches everything."""

    outcome: Outcome
    why: str
    statuses: frozenset[int] = frozenset()
    codes: frozenset[int] = frozenset()
    text: str = ""
    verbs: frozenset[Verb] = frozenset()
    has_code: bool = False
    """Whether the response must have a code of Binance, which is negative."""

    def matches(self, status: int, code: int, text: str, verb: Verb) -> bool:
        return (
            (not self.statuses or status in self.statuses)
            and (not self.codes or code in self.codes)
            and (not self.text or text.strip().startswith(self.text))
            and (not self.verbs or verb in self.verbs)
            and (not self.has_code or code < 0)
        )


def _at(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


_OK = frozenset({0, 200})
_GET: frozenset[Verb] = frozenset({"GET"})
_POST: frozenset[Verb] = frozenset({"POST"})

RULES: tuple[Rule, ...] = (
    Rule(Outcome.ACCEPTED, "done", _at(200), _OK),
    # A failed query proves nothing, except the response that the order does not exist.
    Rule(Outcome.REFUSED, "there is no such order", _at(400), ABSENT, verbs=_GET),
    Rule(Outcome.UNKNOWN, "the query failed", verbs=_GET),
    # The HTTP library sends a PUT or DELETE again after a kept-alive connection breaks, so for them "no connection" may
    # be about the second attempt only.
    Rule(Outcome.REFUSED, "no connection was made", _at(NOT_SENT), verbs=_POST),
    Rule(Outcome.UNKNOWN, "the gateway does not know", codes=LOST),
    Rule(Outcome.UNKNOWN, "an earlier attempt has succeeded", codes=EXISTS),
    Rule(Outcome.UNKNOWN, "the order is in motion", codes=IN_MOTION),
    Rule(Outcome.REFUSED, "redirected, and not followed", _at(NOT_SENT, *range(300, 400)), frozenset({REDIRECTED})),
    Rule(Outcome.REFUSED, "too many requests, or banned", _at(418, 429)),
    Rule(Outcome.REFUSED, "throttled", _at(400, 503), THROTTLED),
    Rule(Outcome.UNKNOWN, "sent, and no response", _at(503), text="Unknown error, please check your request"),
    Rule(Outcome.REFUSED, "the service is down", _at(503), _OK, text="Service Unavailable."),
    Rule(Outcome.REFUSED, "failed inside", _at(503), _OK, text="Internal error; unable to process your request."),
    Rule(Outcome.REFUSED, "throttled", _at(503), text="Request throttled by system-level protection"),
    Rule(Outcome.REFUSED, "refused with a code", _at(400, 401, 403), has_code=True),
)
"""Rules in the order in which they are tried."""


def classify(http_status: int, code: int, text: str, verb: Verb) -> Outcome:
    """Return the outcome of a request.

    Args:
        http_status: of the response; or `NOT_SENT`, or `NO_ANSWER` (also for a 200 without the order).
        code: Binance's code, 0 without one.
        text: Binance's message, or the body if it is not JSON.
        verb: HTTP method. For `GET`, REFUSED means that the order does not exist.
    """
    for rule in RULES:
        if rule.matches(http_status, code, text, verb):
            return rule.outcome
    return Outcome.UNKNOWN
