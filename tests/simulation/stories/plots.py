"""What stories begin from: a quiet market, a rule that buys, stop and target far away."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from simulation.evidence import Evidence
from simulation.plans import RULE, lasts_s
from simulation.scenario import at, scenario
from simulation.tapes import path_tape

BEFORE_S, EVERY_S = 60.0, 0.2
"""History before the opening of a story, and from trade to trade."""
HOLDS: dict[str, Any] = {"rule": RULE, "stop_atr": 60.0, "take_profit_atr": 0.0, "latency_ms": 0, "duration_s": 45.0}
HOLDS |= {"cooldown_bars": 100_000}
"""Buys a quarter of a coin 0.6 s after the opening, and never again once it has left; the stop is 0.15 % away."""
PRICE = 80_000.0
SYMBOL = {"symbol": "BTCUSDT"}
DOWN: dict[str, Any] = {"status": 503, "body": '{"msg":"Service Unavailable."}'}
"""Facts of a strike `answer`."""

ORDER, ALGO = "POST /fapi/v1/order", "POST /fapi/v1/algoOrder"
EXIT = f"{ORDER} .*reduceOnly=true"
LOOK_UP = "GET /fapi/v1/(order|algoOrder)$"
"""Whom strikes hit; EXIT is for `answer` alone, which sees a request's parameters too."""


def story(
    *strikes: Any,
    path: Any = (),
    every_s: float = EVERY_S,
    lots: int = 1_000,
    thin: tuple[float, int] = (0.0, 0),
    **settings: Any,
) -> Evidence:
    """Play a session on a tape with a trade each `every_s`, takers buying and selling in turn.

    The price goes along `path`, (seconds after the opening, USDT); without one it stands still. A trade gives `lots`,
    more than we order; `thin` is (until so many seconds after the opening, only so many lots).
    """
    given = {**HOLDS, **settings}
    end_s = BEFORE_S + lasts_s(given, strikes) + 65.0
    points = [(0.0, PRICE), *((BEFORE_S + at_s, price) for at_s, price in path)]
    points.append((end_s, points[-1][1]))
    seconds = np.arange(0.0, end_s + every_s / 2, every_s)
    given_lots = np.where(seconds < BEFORE_S + thin[0], thin[1], lots) if thin[0] else lots
    return scenario(*strikes, tape=path_tape(points, every_s, given_lots), begin_s=BEFORE_S, **given)  # type: ignore[arg-type]


def fails(case: str) -> pytest.MarkDecorator:
    """Mark a story whose claims do not hold yet; a story that breaks down instead of failing its claims is an error."""
    return pytest.mark.xfail(strict=True, reason=f"fault case {case}", raises=(AssertionError, pytest.fail.Exception))


def rarely(*values: Any, id: str | None = None) -> Any:
    """A case of a table that goes the way of another one there: `make campaign-process` alone plays it."""
    return pytest.param(*values, marks=pytest.mark.campaign, id=id)


def refusal(code: int, text: str = "refused") -> dict[str, Any]:
    """Facts of a strike `answer`: HTTP 400 with a code of Binance's."""
    return {"status": 400, "body": f'{{"code":{code},"msg":"{text}"}}'}


def replacing(find: str, put: str) -> Callable[[Any], Any]:
    """Change what is told by its compact JSON, as `re.sub` would."""
    pattern = re.compile(find)
    return lambda told: json.loads(pattern.sub(put, json.dumps(told, separators=(",", ":"))))


def answers(for_s: float, on: str, change: Callable[[Any], Any], at_s: float = 0.0) -> tuple[float, str, float, Any]:
    """The venue's answers are changed."""
    return at(at_s, "answer", for_s, on=on, change=change)


def events(for_s: float, on: str, change: Callable[[Any], Any], at_s: float = 0.0) -> tuple[float, str, float, Any]:
    """The venue's events are changed, each for itself."""
    return at(at_s, "retell", for_s, on=on, change=lambda event: [change(event)])


def none_yet(rows: Any) -> Any:
    """Change a list to one that lags."""
    return []


def by_hand(seconds: float, side: str, quantity: str) -> tuple[float, str, float, dict[str, Any]]:
    """A person buys or sells at market."""
    return at(seconds, "order", with_={**SYMBOL, "side": side, "quantity": quantity})
