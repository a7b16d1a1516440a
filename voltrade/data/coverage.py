"""What a part of a tape has and lacks: trades by their ids, a mark price each minute, and funding rates.

A result states its coverage, and is marked where more than `MARKED_ABOVE` of anything is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from voltrade.data.row_checks import ids_missing_before
from voltrade.data.tape import Tape
from voltrade.model import MINUTE_MS
from voltrade.simulated.mark_columns import each_once, fundings_missing, minutes_without_mark

MARKED_ABOVE = 0.01
"""A result is marked where a larger part is missing."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a part of a tape has and lacks."""

    trades: int
    ids_missing: int
    id_gaps: int
    minutes: int
    minutes_without_mark: int | None
    """None where the tape has no mark prices of the exchange at all."""
    fundings: int
    """Funding rows."""
    fundings_missing: int | None
    """None where the tape has no funding rates of the exchange at all."""
    open_days: tuple[str, ...] = ()
    """Days of the store of which nothing says that they are whole."""

    @staticmethod
    def of(tape: Tape, first: int = 0, end: int | None = None) -> Coverage:
        """Return the coverage of a tape from trade `first` up to trade `end`, by default its end."""
        trades = tape.trades[first:end]
        missing = ids_missing_before(trades.id)
        begin_ms, end_ms = int(trades.time[0]), int(trades.time[-1])
        without_mark = lost = None
        fundings = 0
        if tape.marks is not None:
            without_mark = len(minutes_without_mark(tape.marks, begin_ms, end_ms))
        if tape.funding is not None:
            times = each_once(tape.funding).time
            fundings = int(((times > begin_ms) & (times <= end_ms)).sum())
            lost = fundings_missing(tape.funding, begin_ms, end_ms)
        return Coverage(
            trades=len(trades),
            ids_missing=int(missing.sum()),
            id_gaps=int((missing > 0).sum()),
            minutes=end_ms // MINUTE_MS - begin_ms // MINUTE_MS,
            minutes_without_mark=without_mark,
            fundings=fundings,
            fundings_missing=lost,
            open_days=tape.open_days,
        )

    @property
    def missing_parts(self) -> dict[str, float]:
        """The missing part of trades, mark prices and funding rates."""
        lost, rows = self.fundings_missing or 0, self.fundings
        return {
            "trades": self.ids_missing / max(1, self.trades + self.ids_missing),
            "mark prices": (self.minutes_without_mark or 0) / max(1, self.minutes),
            "funding rates": lost / max(1, rows + lost),
        }

    @property
    def warning(self) -> str:
        """What a result on this tape is marked with; empty where hardly anything is missing."""
        lacking = [f"{part:.1%} of the {name}" for name, part in self.missing_parts.items() if part > MARKED_ABOVE]
        return f"INCOMPLETE TAPE: without {', '.join(lacking)}" if lacking else ""

    @property
    def gaps_text(self) -> str:
        """What is missing of the trades."""
        open_days = f"; not known to be whole: {', '.join(self.open_days)}" if self.open_days else ""
        if not self.ids_missing:
            return f"no id is missing between its trades{open_days}"
        part = self.missing_parts["trades"]
        return f"{self.ids_missing:,} ids are missing in {self.id_gaps:,} gaps ({part:.2%}){open_days}"

    @property
    def text(self) -> str:
        """What there is and what is missing, in one line."""
        return (
            f"{self.gaps_text}; mark = {self.mark_text('simulated')}; funding = {self.funding_text('simulated, or 0')}"
        )

    def mark_text(self, without: str) -> str:
        """Return where mark prices are from; `without` describes those of a tape that has none."""
        lost = self.minutes_without_mark
        if lost is None:
            return without
        holes = f"; {lost:,} of {self.minutes:,} minutes have none: there it is the last trade's price" if lost else ""
        return f"the exchange's, one a minute{holes}"

    def funding_text(self, without: str) -> str:
        """Return where funding rates are from; `without` describes those of a tape that has none."""
        lost = self.fundings_missing
        if lost is None:
            return without
        holes = f"; {lost:,} of {self.fundings + lost:,} rows are missing and were not paid" if lost else ""
        return f"the exchange's, {self.fundings:,} rows{holes}"
