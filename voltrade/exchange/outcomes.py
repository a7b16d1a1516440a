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

CHANGES: frozenset[Verb] = frozenset({"POST", "PUT", "DELETE"})

LOST = frozenset({-1000, -1001, -1006, -1007})
"""The gateway itself does not know what the matching engine did."""

EXISTS = frozenset({-4116})
"""A duplicated client order id: an earlier attempt is alive."""

THROTTLED = frozenset({-1003, -1008, -1015})
"""Refused at the door for too many requests, or in an overload."""

NOT_EXECUTED = frozenset(
    {
        # Transport and credentials: time, signature, key, rights.
        *(-1002, -1021, -1022, -2014, -2015, -2017, -5028),
        # The request itself: missing, malformed or unknown parameters.
        *(-1013, -1014, -1100, -1101, -1102, -1103, -1104, -1105, -1106, -1108, -1109, -1110, -1111, -1112, -1114),
        *(-1115, -1116, -1117, -1118, -1119, -1120, -1121, -1122, -1125, -1127, -1128, -1130, -1136),
        # The order against the account and the book.
        *(
            -2010,
            -2011,
            -2012,
            -2013,
            -2016,
            -2018,
            -2019,
            -2020,
            -2021,
            -2022,
            -2023,
            -2024,
            -2025,
            -2026,
            -2027,
            -2028,
        ),
        # Filters, modes and limits of the symbol and the account.
        *(-4000, -4001, -4002, -4003, -4004, -4005, -4006, -4007, -4008, -4009, -4010, -4011, -4012, -4013, -4014),
        *(-4015, -4016, -4017, -4018, -4022, -4023, -4024, -4028, -4029, -4030, -4031, -4046, -4047, -4048, -4055),
        *(-4059, -4060, -4061, -4062, -4067, -4068, -4118, -4120, -4131, -4136, -4137, -4138, -4139, -4140, -4141),
        *(-4144, -4161, -4164, -4183, -4184, -4192, -4400, -4401),
        # Time in force.
        *(-5021, -5022),
    }
)
"""Refused before anything was done."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table; an empty set or text fits everything."""

    outcome: Outcome
    why: str
    statuses: frozenset[int] = frozenset()
    codes: frozenset[int] = frozenset()
    text: str = ""
    verbs: frozenset[Verb] = frozenset()

    def fits(self, status: int, code: int, text: str, verb: Verb) -> bool:
        return (
            (not self.statuses or status in self.statuses)
            and (not self.codes or code in self.codes)
            and (not self.text or text.strip().startswith(self.text))
            and (not self.verbs or verb in self.verbs)
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
    Rule(Outcome.REFUSED, "refused with a code that says so", _at(400, 401, 403), NOT_EXECUTED),
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
