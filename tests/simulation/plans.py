"""Plans of sessions, and how they are drawn from a seed: tape, settings, and faults, each kind of them as likely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from simulation.clock import BEGIN_MS
from simulation.evidence import Json
from simulation.kinds import (
    KINDS,
    LATER,
    NAMED,
    RECOVERABLE,
    RECOVERABLE_KINDS,
    Draw,
    Kind,
    Strike,
    between,
    one_of,
    row_of,
)
from simulation.network import LATENCY_S
from simulation.tapes import SYMBOL, drawn_tape
from voltrade.model import DAY_MS, Trades

RULE = f"{Path(__file__).parent}/rules/buys.py:Buys"
BEGIN_S = 300.0
"""History before the opening, where a scenario does not say."""
HISTORY_S = 140.0
"""Likewise in a drawn plan: 1,400 trades, so that its rule may enter from the opening on (55 bars of 23 trades)."""
FAULTS_S = 660.0
"""Faults strike in so long after the opening; then come a quiet minute and `JUDGED_S`: a quarter of an hour in all."""
QUIET_S = 60.0
"""After the last fault: the session must be able to trade again, or say why not."""
END_S = 60.0
"""How much longer than its time a session may take to end."""
JUDGED_S = 105.0
"""After the quiet minute: long enough for some bars and signals, each of which must give an entry again."""
DURATION_S = FAULTS_S + QUIET_S + JUDGED_S
TAPE_S = HISTORY_S + DURATION_S + END_S + 60.0
LEAST_FAULTS, LEAST_CLASSES = 10, 4
LAST_FAULT_S = FAULTS_S - 130.0
"""So that the longest of them are over when it is to be quiet."""
LOOKS = 4


@dataclass(frozen=True)
class Plan:
    """What a session is: everything that its course depends on.

    Attributes:
        settings: parameters of the engine; those of the simulated exchange are the venue's.
        begin_s: how much of the tape is history when the venue opens.
        strikes: (seconds after the opening, kind, seconds that it lasts, facts). A kind of `venue/faults.json` strikes
            at the venue; its facts are the fields of `Fault`. The others are the `do_` methods of `Strikes`.
        faults_s: when faults end.
        restart_s: how long after its death the engine is started again.
        kinds: names of the strikes, to count by; and `rows`, of the fault catalogue.
        latency_s: shortest and longest time that a packet takes, one way.
        opens_ms: what the venue's clock says when it opens.
        looks_s: when an operator looks at the session, seconds after the opening: one that is halted is resumed.
    """

    seed: int
    settings: Json
    tape: Trades
    begin_s: float
    strikes: tuple[Strike, ...] = ()
    faults_s: float = 720.0
    restart_s: float = 1.5
    kinds: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    latency_s: tuple[float, float] = LATENCY_S
    opens_ms: int = BEGIN_MS
    looks_s: tuple[float, ...] = ()

    @property
    def duration_s(self) -> float:
        """Until the last of its runs should be over."""
        return lasts_s(self.settings, self.strikes)


def lasts_s(settings: Json, strikes: Iterable[Strike]) -> float:
    """How long a session of these settings takes with the runs that its strikes begin or go on with."""
    usual = float(settings["duration_s"])
    more = [at + facts.get("duration_s", usual) for at, kind, _, facts in strikes if kind in ("run", "resume")]
    return max([usual, *more])


def draw_plan(seed: int) -> Plan:
    """Draw a session with faults; every fifth has only such as can be recovered from."""
    drawn = draw_faults(seed)
    names = tuple(kind.name for kind, _ in drawn)
    strikes = tuple(strike for _, strike in drawn)
    plan = replace(clean_plan(seed), strikes=strikes, kinds=names, rows=tuple(map(row_of, names)))
    return plan if is_recoverable(plan) else replace(plan, looks_s=draw_looks(seed))


def is_recoverable(plan: Plan) -> bool:
    """Whether a session must trade on under this plan as if nothing had been."""
    return all(row in RECOVERABLE for row in plan.rows)


def draw_looks(seed: int) -> tuple[float, ...]:
    """Draw when an operator looks at the session: once in each of four parts, so that a halt is not its end."""
    draw = np.random.default_rng([seed, 7])
    part = FAULTS_S / LOOKS
    return tuple(float(round(draw.uniform(number, number + 1) * part, 1)) for number in range(LOOKS))


def draw_faults(seed: int) -> list[tuple[Kind, Strike]]:
    """Draw the faults of a session, in order of time."""
    draw, later = np.random.default_rng([seed, 2]), np.random.default_rng([seed, 6])
    kinds = tuple(kind for kind in (RECOVERABLE_KINDS if seed % 5 == 0 else KINDS) if kind.name not in LATER)
    count = int(draw.integers(LEAST_FAULTS, LEAST_FAULTS + 5))
    drawn = [_struck(draw, kind) for kind in _enough_classes(draw, kinds, count)]
    drawn += [_struck(later, NAMED[name]) for name in sorted(LATER) if later.random() < count / len(kinds)]
    return sorted(drawn, key=lambda each: (each[1][0], each[0].name))


def _struck(draw: Draw, kind: Kind) -> tuple[Kind, Strike]:
    return kind, kind.draw(draw, float(round(draw.uniform(5.0, LAST_FAULT_S), 1)))


def _enough_classes(draw: Draw, kinds: tuple[Kind, ...], count: int) -> list[Kind]:
    while True:
        chosen = [kinds[number] for number in draw.choice(len(kinds), count, replace=False)]
        if len({kind.group for kind in chosen}) >= LEAST_CLASSES:
            return chosen


def clean_plan(seed: int, latency_s: tuple[float, float] = LATENCY_S) -> Plan:
    """Draw tape and settings, without a fault."""
    return Plan(
        seed,
        draw_settings(seed),
        drawn_tape(seed, TAPE_S, HISTORY_S),
        HISTORY_S,
        faults_s=FAULTS_S,
        latency_s=latency_s,
        opens_ms=draw_opening(seed),
    )


def draw_opening(seed: int) -> int:
    """Draw when the venue opens; every fourth session has midnight UTC within it, with a new day and funding."""
    draw = np.random.default_rng([seed, 4])
    if seed % 4 != 2:
        return BEGIN_MS
    midnight = (BEGIN_MS // DAY_MS + 1) * DAY_MS
    return midnight - int(draw.integers(200_000, 500_000))


def draw_settings(seed: int) -> Json:
    """Draw the settings of a session: bars, rule, exits, size, margin, entries, and how it ends."""
    draw = np.random.default_rng([seed, 3])
    unit = str(draw.choice(["trades", "base", "quote"]))
    threshold = {
        "trades": int(draw.integers(12, 24)),
        "base": int(draw.integers(5, 12)),
        "quote": int(draw.integers(400_000, 1_000_000)),
    }
    settings: Json = {
        **{
            "symbol": SYMBOL,
            "seed": seed,
            "speed": 1.0,
            "duration_s": DURATION_S,
            "unit": unit,
            "threshold": threshold[unit],
        },
        **{"anchor": one_of("utc_day", "continuous")(draw), "ema_fast": 2, "ema_slow": int(draw.integers(3, 6))},
        **{
            "rsi_length": 2,
            "atr_length": int(draw.integers(2, 4)),
            "bollinger_length": 4,
            "vwap_length": 3,
            "min_stop_bps": 0.0,
        },
        **{"stop_atr": between(1.5, 12)(draw), "take_profit_atr": one_of(0.0, between(1.5, 12)(draw))(draw)},
        **{"exit_on_opposite_signal": bool(draw.random() < 0.7), "max_holding_bars": one_of(0, 3, 6, 10)(draw)},
        **{
            "max_holding_s": one_of(0.0, 20.0, 60.0)(draw),
            "working_type": one_of("CONTRACT_PRICE", "CONTRACT_PRICE", "MARK_PRICE")(draw),
        },
        **{
            "capital": 10_000,
            "wallet": 10_000,
            "risk_fraction": between(0.002, 0.02)(draw),
            "max_daily_loss_fraction": 0.1,
            "margin_type": one_of("isolated", "cross")(draw),
        },
        **{
            "leverage": one_of(5, 5, 10, 20)(draw),
            "max_consecutive_losses": 1_000,
            "max_trades_per_day": 10_000,
            "cooldown_bars": int(draw.integers(0, 3)),
        },
        **{
            "entry": one_of("market", "market", "ioc_limit")(draw),
            "max_slippage_bps": 20.0,
            "slippage_bps": one_of(0.0, 0.5)(draw),
        },
        **{
            "taker_fee": one_of(0.0, 0.0002)(draw),
            "latency_ms": int(draw.integers(20, 300)),
            "mark_interval_s": one_of(5, 10, 10)(draw),
        },
        **{"order_stale_s": one_of(5.0, 10.0)(draw), "funding_rate": one_of(0.0, 0.0001)(draw)},
        **{"on_duration_end": one_of("flatten", "flatten", "protect")(draw)},
    }
    if seed % 10 != 1:
        settings |= {"rule": RULE, "every": int(draw.integers(1, 6)), "both_sides": bool(draw.random() < 0.7)}
    return settings
