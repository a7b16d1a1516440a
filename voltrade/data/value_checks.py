"""The bounds of the values of mark prices and funding rates; files, pages of REST and the store are held to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from voltrade.data.kinds import FUNDING, MARKS, NO_REGULAR
from voltrade.errors import DataError
from voltrade.model import HOUR_MS, Bools, Int64s
from voltrade.simulated.mark_columns import MOST_FUNDING_E8, MOST_SPECIAL_E8, USUAL_FUNDING_MS, e8_text, rates_beyond

_INTERVALS = [hours for hours in range(1, USUAL_FUNDING_MS // HOUR_MS + 1) if USUAL_FUNDING_MS // HOUR_MS % hours == 0]
"""Hours between two funding times. Each divides the longest, so that all symbols pay at the times of the longest."""


def values_wrong(kind: str, columns: Sequence[Int64s]) -> Iterator[tuple[Bools, str, list[str]]]:
    """Yield rules that values of a kind break: the rows, field and rule, and the value of each row.

    Args:
        columns: those of the kind in the store, see `kinds.KINDS`.
    """
    if kind == MARKS.name:
        _, opened, high, low, closed = columns
        positive = np.minimum(np.minimum(opened, closed), np.minimum(high, low)) > 0  # others have a fault of their own
        yield from _told(positive & (high < np.maximum(opened, closed)), "high must be at least open and close", high)
        yield from _told(positive & (low > np.minimum(opened, closed)), "low must be at most open and close", low)
    elif kind == FUNDING.name:
        most, hours = e8_text(MOST_FUNDING_E8), columns[2]
        special = columns[3] if len(columns) > 3 else np.zeros_like(hours)
        yield from _told(rates_beyond(columns[1]), f"last_funding_rate must be from -{most} to {most}", columns[1])
        yield from _told(rates_beyond(special, MOST_SPECIAL_E8), "special_rate must be from -1 to 1", special)
        is_alone = (hours == NO_REGULAR) & (special != 0)
        odd, known = (hours != 0) & ~is_alone & ~np.isin(hours, _INTERVALS), ", ".join(map(str, _INTERVALS))
        if odd.any():
            yield odd, f"funding_interval_hours must be one of {known}", list(map(str, hours))


def _told(wrong: Bools, rule: str, values_e8: Int64s) -> Iterator[tuple[Bools, str, list[str]]]:
    if wrong.any():
        yield wrong, rule, list(map(e8_text, values_e8))


def refuse_wrong_values(kind: str, columns: Sequence[Int64s], name: str) -> None:
    """Refuse the first row whose values break a rule.

    Raises:
        DataError: with the name, the time of the row, the field, its rule and the value.
    """
    for wrong, rule, values in values_wrong(kind, columns):
        at = int(np.argmax(wrong))
        raise DataError(f"{name}: at {columns[0][at]} {rule}, was {values[at]}")
