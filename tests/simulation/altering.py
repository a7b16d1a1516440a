"""What is wrong between engine and venue: a network's conditions, answers that are altered, events that are retold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from simulation.evidence import Json

Given = tuple[int, Any, str]
"""An answer as it comes to the client: status, headers, text."""


@dataclass(eq=False)
class Answering:
    """How some requests are answered otherwise than by the venue.

    Attributes:
        on: searched in `POST /fapi/v1/order?query body`.
        change: what it makes of the JSON that the venue answers is the answer's; a refusal stays what it is, unless
            a `status` is stated.
        status, body, headers: an answer that the venue has not given, where nothing is changed: one of a proxy, or a
            refusal that the venue does not know.
        is_carried_out: whether the venue does what was asked for, though it is not what answers.
        skip, times: so many that match are spared first, and then so many answered (0: all).
    """

    on: re.Pattern[str]
    change: Callable[[Any], Any] | None = None
    status: int = 0
    body: str = ""
    headers: Json = field(default_factory=dict)
    is_carried_out: bool = False
    skip: int = 0
    times: int = 0
    seen: int = 0

    def is_for(self, what: str) -> bool:
        if not self.on.search(what):
            return False
        self.seen += 1
        return self.seen > self.skip and (not self.times or self.seen <= self.skip + self.times)

    @property
    def asks_nobody(self) -> bool:
        """Whether the venue never hears of the request."""
        return self.change is None and not self.is_carried_out

    def instead_of(self, given: Given) -> Given:
        """Return what is answered in place of an answer."""
        if self.change is None:
            return self.status, CIMultiDict(self.headers), self.body
        status, headers, text = given
        if not self.status and status != 200:
            return given
        return self.status or status, headers, json.dumps(self.change(json.loads(text)))


@dataclass(eq=False)
class Retelling:
    """Events that match, as a `Fault.on` would, are told as the events that `change` makes of each."""

    on: re.Pattern[str]
    change: Callable[[Json], list[Json]]

    def of(self, events: list[bytes]) -> list[bytes]:
        return [orjson.dumps(new) for event in events for new in self.change(orjson.loads(event))]


@dataclass
class Conditions:
    """What is wrong just now; the same may be wrong more than once at a time, and ends when its last has ended.

    Attributes:
        cut: while any, no packet passes and nothing can be dialled.
        slow_s: added to each packet's way.
        user_late_s: added to user data on its way to the client, in order.
        deaf: categories of sockets ("market", "private") that take a handshake and then bring nothing.
        flapping: categories of sockets that are closed (1001) as soon as they are open.
        undialable: categories of sockets that nobody can open; those that are open stay.
        answerings: alter what is answered, in turn; one that asks nobody keeps the request from the venue.
        retellings: alter what the venue tells, in turn.
    """

    cut: list[bool] = field(default_factory=list)
    slow_s: list[float] = field(default_factory=list)
    user_late_s: list[float] = field(default_factory=list)
    deaf: list[str] = field(default_factory=list)
    flapping: list[str] = field(default_factory=list)
    undialable: list[str] = field(default_factory=list)
    answerings: list[Answering] = field(default_factory=list)
    retellings: list[Retelling] = field(default_factory=list)

    def answerings_for(self, what: str) -> list[Answering]:
        """Return who answers a request, each counted once."""
        return [each for each in self.answerings if each.is_for(what)]

    def retold(self, what: str, events: list[bytes]) -> list[bytes]:
        """Return the events that are told in the place of some."""
        for retelling in self.retellings:
            if retelling.on.search(what):
                events = retelling.of(events)
        return events


def given(response: web.StreamResponse) -> Given:
    """Return what the venue answers as it comes to the client."""
    body = getattr(response, "body", None)
    text = body.decode() if isinstance(body, bytes) else str(getattr(response, "text", "") or "")
    return response.status, response.headers, text
