"""Writes a frame as texts for display."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd


def readable(frame: pd.DataFrame, drop: Sequence[str] = (), decimals: int = 4) -> pd.DataFrame:
    """Write a frame as texts: times to the second (their columns are named `..., UTC`), rounded numbers, NaN empty.

    Args:
        drop: columns to leave out.
        decimals: most decimals of floats.
    """
    table = frame.drop(columns=list(drop))
    times = [name for name in table.columns if isinstance(table[name].dtype, pd.DatetimeTZDtype)]
    for name in table.columns:
        if isinstance(table[name].dtype, pd.DatetimeTZDtype):
            table[name] = table[name].dt.strftime(_MOMENT).fillna("")
        elif table[name].dtype == "boolean":
            table[name] = ["--" if answer is pd.NA else str(answer) for answer in table[name]]
        elif table[name].dtype.kind == "f":
            table[name] = _rounded(table[name], decimals)
    if isinstance(table.index, pd.DatetimeIndex):
        at = "closed" if "closed" in frame.columns else "time"
        table.index = table.index.strftime(_MOMENT).rename(f"{at}, UTC")
    return table.rename(columns={name: f"{name}, UTC" for name in times})


_MOMENT = "%Y-%m-%d %H:%M:%S"


def _rounded(values: pd.Series[float], decimals: int) -> list[str]:
    """Write a column's numbers with equally many decimals: as many as the values need, at most `decimals`."""
    texts = [f"{value:.{decimals}f}" for value in values if not math.isnan(value)]
    needed = max((len(text.partition(".")[2].rstrip("0")) for text in texts), default=0)
    return ["" if math.isnan(value) else f"{value:,.{needed}f}" for value in values]
