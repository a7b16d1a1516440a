"""What is known of a request after Binance answered, or didn't: one table, first line that fits wins.

An order's fate is read from (HTTP status, Binance's code, the text), never from an exception's class: the same class
stands for "refused" and for "nobody knows". Whatever no line names is UNKNOWN, so a surprise is looked up, not assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from voltrade.model import Outcome

Verb = Literal["GET", "POST", "PUT", "DELETE"]

NOT_SENT = -1
"""In place of a HTTP status: the request never left, no connection was made."""
NO_ANSWER = 0
"""In place of a HTTP status: sent, perhaps, but no answer came that can be read as one."""

LOST = frozenset({-1000, -1001, -1006, -1007})
"""The gateway itself does not know what the matching engine did."""

EXISTS = frozenset({-4116})
"""A duplicated client order id: an earlier attempt is alive."""

THROTTLED = frozenset({-1003, -1008, -1015})
"""Refused at the door for too many requests, or in an overload."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table; an empty set or text fits everything."""

    outcome: Outcome
    why: str
    statuses: frozenset[int] = frozenset()
    codes: frozenset[int] = frozenset()
    text: str = ""
    verbs: frozenset[Verb] = frozenset()
    has_code: bool = False
    """Whether there must be a code, whichever."""

    def fits(self, status: int, code: int, text: str, verb: Verb) -> bool:
        return (
            (not self.statuses or status in self.statuses)
            and (not self.codes or code in self.codes)
            and (not self.text or text.strip().startswith(self.text))
            and (not self.verbs or verb in self.verbs)
            and (not self.has_code or code != 0)
        )


def _at(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


_OK = frozenset({0, 200})
_GET: frozenset[Verb] = frozenset({"GET"})
_POST: frozenset[Verb] = frozenset({"POST"})

RULES: tuple[Rule, ...] = (
    Rule(Outcome.ACCEPTED, "done", _at(200), _OK),
    # A question that failed is no evidence of anything; the one telling "no" is that there is no such order.
    Rule(Outcome.REFUSED, "there is no such order", _at(400), frozenset({-2013}), verbs=_GET),
    Rule(Outcome.UNKNOWN, "the question failed", verbs=_GET),
    # The HTTP library sends a PUT or DELETE a second time when a kept connection breaks, so that for them "no
    # connection" may speak of the second time only.
    Rule(Outcome.REFUSED, "no connection was made", _at(NOT_SENT), verbs=_POST),
    Rule(Outcome.UNKNOWN, "the gateway doesn't know", codes=LOST),
    Rule(Outcome.UNKNOWN, "an earlier attempt is alive", codes=EXISTS),
    Rule(Outcome.REFUSED, "too many requests, or banned", _at(418, 429)),
    Rule(Outcome.REFUSED, "throttled", _at(400, 503), THROTTLED),
    Rule(Outcome.UNKNOWN, "sent on, and no answer", _at(503), text="Unknown error, please check your request"),
    Rule(Outcome.REFUSED, "the service is down", _at(503), _OK, text="Service Unavailable."),
    Rule(Outcome.REFUSED, "failed inside", _at(503), _OK, text="Internal error; unable to process your request."),
    Rule(Outcome.REFUSED, "throttled", _at(503), text="Request throttled by system-level protection"),
    Rule(Outcome.REFUSED, "refused with a code", _at(*range(400, 500)), has_code=True),
)
"""Outcomes in the order in which they are tried. Nothing fits: UNKNOWN."""


def classify(http_status: int, code: int, text: str, verb: Verb) -> Outcome:
    """Say what is known of a request.

    Args:
        http_status: of the answer; or `NOT_SENT`, or `NO_ANSWER` (also where a 200 holds no order).
        code: Binance's code, 0 where the answer has none.
        text: Binance's message, or the body where it is no JSON.
        verb: HTTP method. For `GET` REFUSED means that there is no such order.
    """
    for rule in RULES:
        if rule.fits(http_status, code, text, verb):
            return rule.outcome
    return Outcome.UNKNOWN
