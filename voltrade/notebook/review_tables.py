"""Tables of a run's review: its signals, and its round trips compared with a backtest's."""

from __future__ import annotations

import math

import pandas as pd

from voltrade.report.decision_reasons import reasons
from voltrade.report.frames import Frames


def signal_table(run: Frames) -> pd.DataFrame:
    """Return one row per signal: its conditions, the gate that refused it or its entry, and the end of that trade.

    `slippage` is that of the entry, in money, negative for a cost; `net` is the result of the whole round trip.
    """
    decisions = run.since_begin(run.decisions)
    decided = decisions[decisions["signal"] != ""]
    table = decided[["bar", "signal"]].copy()
    table["why"] = pd.array(reasons(decided), dtype="str")
    table["outcome"] = decided["outcome"].replace("", "no order")
    details = run.refusals.drop_duplicates("bar", keep="last").set_index("bar")["detail"]
    entries = run.orders[run.orders["purpose"] == "ENTRY"].drop_duplicates("bar", keep="last").set_index("bar")
    trips = run.round_trips.drop_duplicates("bar", keep="last").set_index("bar")
    texts = [details.get(bar, "") or str(entries["text"].get(bar, "")) for bar in table["bar"]]
    table["detail"] = pd.array(texts, dtype="str")
    for name, column in (("entry_price", "average_price"), ("quantity", "filled"), ("slippage", "slippage")):
        table[name] = entries[column].reindex(table["bar"]).to_numpy()
    for column in ("exit_price", "exit_reason", "net", "r_multiple"):
        table[column] = trips[column].reindex(table["bar"]).to_numpy()
    table["exit_reason"] = table["exit_reason"].fillna("")
    return table


def compare(run: Frames, other: Frames) -> pd.DataFrame:
    """Compare a run's round trips with a backtest's; those with the same first bar and side are in one row.

    For a trade that only one of the two made, `why` has what the other one did on that bar.
    """
    sides = [frames.round_trips.drop_duplicates(["bar", "side"]).set_index(["bar", "side"]) for frames in (run, other)]
    keys = sides[0].index.union(sides[1].index)
    ours, theirs = (side.reindex(keys) for side in sides)
    table = pd.DataFrame(index=ours.index)
    for name in ("entry_price", "exit_price", "exit_reason", "net"):
        table[f"{name}, run"], table[f"{name}, backtest"] = ours[name], theirs[name]
    table["net, difference"] = ours["net"] - theirs["net"]
    outcomes = [frames.decisions.drop_duplicates("bar").set_index("bar")["outcome"] for frames in (run, other)]
    table["why"] = [
        _why_not(outcomes[0], bar, "the run")
        if math.isnan(mine)
        else _why_not(outcomes[1], bar, "the backtest")
        if math.isnan(its)
        else ""
        for (bar, _), mine, its in zip(keys, ours["net"], theirs["net"], strict=True)
    ]
    for name in ("exit_reason, run", "exit_reason, backtest"):
        table[name] = table[name].fillna("")
    return table.reset_index("side")


def agreement(compared: pd.DataFrame) -> str:
    """Return a sentence about how many round trips in a table of `compare` agree."""
    ours, theirs = (compared[f"net, {who}"].notna() for who in ("run", "backtest"))
    both = ours & theirs
    prices = [compared[f"{name}, run"] == compared[f"{name}, backtest"] for name in ("entry_price", "exit_price")]
    same = both & prices[0] & prices[1] & (compared["net, difference"] == 0)
    if compared.empty:
        return "Neither the run nor the backtest made a round trip."
    if same.all():
        return f"The backtest makes the same {len(same)} round trips, to the last digit."
    return (
        f"Of the run's {ours.sum()} round trips the backtest makes {same.sum()} to the last digit and "
        f"{(both & ~same).sum()} otherwise; {(ours & ~theirs).sum()} are the run's alone, {(theirs & ~ours).sum()} "
        "the backtest's alone."
    )


def _why_not(outcomes: pd.Series, bar: int, who: str) -> str:
    if bar not in outcomes.index:
        return f"{who} has no such bar"
    return f"{who}: {outcomes[bar] or 'no signal'}"
