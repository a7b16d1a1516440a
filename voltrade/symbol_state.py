"""What the core keeps of one symbol."""

from __future__ import annotations

import math
from typing import Any

from voltrade.bar_pipeline import BarPipeline
from voltrade.bar_rate import ExpectedRange
from voltrade.config import BarSettings
from voltrade.model import (
    Instrument,
)
from voltrade.oms import OrderMonitor
from voltrade.signal_engine import SignalEngine


class SymbolState:
    """The bars, rule and orders of a symbol; what the compiled rules read and change is in the account's books.

    Attributes:
        place: the symbol's row in the books.
        expected_range: how many bars 24 hours should bring; None where no range was set.
        is_bar_rate_alerted: whether an alert said that they don't.
        problems: what about the account forbids trading the symbol, as an alert said it.
        problem_count: snapshots in a row that had problems.
    """

    def __init__(
        self, instrument: Instrument, pipeline: BarPipeline, engine: SignalEngine, monitor: OrderMonitor, place: int
    ) -> None:
        self.instrument = instrument
        self.pipeline = pipeline
        self.engine = engine
        self.monitor = monitor
        self.place = place
        self.expected_range: ExpectedRange | None = None
        self.is_bar_rate_alerted = False
        self.problems: list[str] = []
        self.problem_count = 0

    def see_bars(self, row: Any) -> None:
        """Write the number of bars and the last price into the books."""
        pipeline = self.pipeline
        row["bars"], row["last_price"], row["price_time"] = pipeline.count, pipeline.last_price, pipeline.last_time


def expected_range(settings: BarSettings) -> ExpectedRange | None:
    """Return how many bars a day the settings expect; None where they don't say."""
    if not (settings.least_bars_a_day or settings.most_bars_a_day):
        return None
    return ExpectedRange(settings.threshold, settings.least_bars_a_day, settings.most_bars_a_day or math.inf)
