"""Tables that sum up a run: settings, orders, refusals, round trips and costs."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pandas as pd

from voltrade import risk
from voltrade.config import Config, RiskSettings
from voltrade.errors import DataError
from voltrade.model import (
    MONEY,
    Purpose,
)
from voltrade.report.frames import Frames
from voltrade.report.marked import mark
from voltrade.report.statistics import is_settled, orders_without_reference, without_reference_text
from voltrade.risk import COUNTED, CircuitBreaker


def settings_table(config: Config) -> pd.DataFrame:
    """Return all parameters, one row for each component; those that differ from the default are in a second column."""
    default = Config(signals=type(config.signals)()).model_dump(mode="json")
    rows = {}
    for component, part in config.model_dump(mode="json").items():
        usual = default[component]
        changed = [f"{name} {value} (default {usual[name]})" for name, value in part.items() if value != usual[name]]
        rows[component] = {
            "parameters": " · ".join(f"{name} {value}" for name, value in part.items()),
            "not the default": " · ".join(changed),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("component")


def orders_by_status(run: Frames) -> pd.DataFrame:
    """Count the orders of each purpose by status."""
    return run.orders.groupby(["purpose", "status"]).size().unstack(fill_value=0)


def refusals_by_code(run: Frames) -> pd.DataFrame:
    """Count the refusals by each gate, most frequent first, with the last detail as an example."""
    groups = run.refusals.groupby("code", sort=False)
    table = pd.DataFrame({"count": groups.size(), "for example": groups["detail"].last()})
    return table.sort_values("count", ascending=False)


def costs(run: Frames) -> pd.DataFrame:
    """Return how price moves, slippage, fees and funding add up to net PnL, in money; costs are negative.

    Slippage of orders without a reference price counts as 0, and a column `note` says so. An open position at the end
    is left out; `statistics` has it.

    `per round trip` is the mean, `of turnover (bps)` is relative to the notional of all fills of closed round trips.
    """
    trips = run.round_trips
    slippage = float(run.orders["slippage"][is_settled(run, run.orders)].sum())
    realised, fees, funding = (float(trips[name].sum()) for name in ("realised", "fees", "funding"))
    amounts = {
        "price moves, at decision prices": realised - slippage,
        "slippage": slippage,
        "realised": realised,
        "fees": fees,
        "funding": funding,
        "net": realised + fees + funding,
    }
    table = pd.DataFrame({"amount": amounts})
    turnover = float(run.fills["notional"][is_settled(run, run.fills)].sum())
    table["per round trip"] = table["amount"] / len(trips) if len(trips) else math.nan
    table["of turnover (bps)"] = table["amount"] / turnover * 10_000 if turnover else math.nan
    if unknown := without_reference_text(orders_without_reference(run), ""):
        table["note"] = [unknown if item == "slippage" else "" for item in table.index]
    table.index.name = "item"
    return mark(table, run.warning)


def round_trips_by_exit(run: Frames) -> pd.DataFrame:
    """Sum up the round trips by exit reason, most frequent first; `r_multiple` and `minutes` are means."""
    by_exit = run.round_trips.groupby("exit_reason")
    table = by_exit.agg(
        count=("net", "size"),
        winners=("net", lambda nets: int((nets > 0).sum())),
        net=("net", "sum"),
        r_multiple=("r_multiple", "mean"),
        minutes=("minutes", "mean"),
    )
    return mark(table.sort_values("count", ascending=False), run.warning)


def breaker_distances(run: Frames, settings: RiskSettings) -> pd.DataFrame:
    """Return how near each rule of the circuit breaker is to its limit at the run's end, and how near it came.

    A new `CircuitBreaker` processes the run's valuations, entries, round trips and resumptions again. It begins with
    the state of the account's last run, else at the run's first valuation. Measures and limits are money or a number of
    round trips, as `unit` says; `used` is the used part of the limit at the end, `most used` the largest in the run.
    """
    columns = ["measure", "limit", "left", "used", "most used", "unit"]
    if run.beginning.breaker is None and run.equity.empty:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="rule"))
    breaker = _first_breaker(run, settings)
    most = _used(breaker)
    for event in _breaker_events(run):
        breaker.apply_event(*event)
        most = {rule: max(part, most[rule]) for rule, part in _used(breaker).items()}
    tripped = run.breaker[run.breaker["action"] != "resume"]
    for rule, measure, limit in zip(tripped["rule"], tripped["measure"], tripped["limit"], strict=True):
        if rule in most and limit:
            most[rule] = max(most[rule], measure / limit)
    rows, used = [], _used(breaker)
    for rule, (measure, limit) in breaker.distances().items():
        unit = 1 if rule in COUNTED else MONEY
        measured, bound = max(measure, 0) / unit, limit / unit
        rows.append((measured, bound, max(bound - measured, 0.0), used[rule], most[rule], _unit_name(rule)))
    return pd.DataFrame(rows, columns=columns, index=pd.Index(list(breaker.distances()), name="rule"))


def _first_breaker(run: Frames, settings: RiskSettings) -> CircuitBreaker:
    """Return the circuit breaker as a run began with it; where its saved state couldn't be read, it is a new one."""
    if run.beginning.breaker is not None:
        with suppress(DataError):
            return CircuitBreaker.restore(settings, run.beginning.breaker)
    time, equity = (_ms(run.equity.index[0]), run.equity["equity"].iloc[0]) if len(run.equity) else (0, 0.0)
    return CircuitBreaker(settings, time, round(equity * MONEY))


def _breaker_events(run: Frames) -> list[tuple[int, int, int]]:
    """Return the events of a run's circuit breaker as fact, time and money; at equal times the equity comes last."""
    entries = run.fills[run.fills["purpose"] == Purpose.ENTRY.name]
    resumed = run.operator[run.operator["action"] == "resume"]
    facts: list[tuple[int, Any, float]] = [
        *((risk.OPENED, time, 0.0) for time in entries.index[~entries["round_trip"].duplicated()]),
        *((risk.CLOSED, time, net) for time, net in run.round_trips["net"].items()),
        *((risk.RESUME, time, 0.0) for time in resumed.index),
        *_valuations(run.equity),
    ]
    events = [(fact, _ms(time), round(amount * MONEY)) for fact, time, amount in facts]
    return sorted(events, key=lambda event: event[1])


def _valuations(equity: pd.DataFrame) -> list[tuple[int, Any, float]]:
    """Return the events of rows of `Frames.equity`, as the breaker was told of them."""
    at_last = (equity["position"] != 0) & (equity["valued_at"] == "last")
    events = at_last.map({True: risk.EQUITY_AT_LAST, False: risk.EQUITY})
    return list(zip(events, equity.index, equity["equity"], strict=True))


def _used(breaker: CircuitBreaker) -> dict[str, float]:
    """Return the used part of each rule's limit."""
    parts = breaker.distances().items()
    return {rule: max(measure, 0) / limit if limit else math.nan for rule, (measure, limit) in parts}


def _ms(time: pd.Timestamp) -> int:
    return int(time.timestamp() * 1000 + 0.5)


def _unit_name(rule: str) -> str:
    return "round trips" if rule in COUNTED else "quote asset"
