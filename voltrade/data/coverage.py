"""What a part of a tape has and lacks: trades by their ids, a mark price each minute, and funding rates.

A result states its coverage, and is marked where more than `MARKED_ABOVE` of anything is missing, or where mark prices
can't be those of the trades. A tape without any mark price, or without any funding rate, is not marked for that, and
nothing of it counts as missing: mark prices are made from its trades then, funding is of one rate or 0, and the notes
of a result say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from voltrade.data.mark_basis import days_off, days_off_text
from voltrade.data.row_checks import ids_missing_before
from voltrade.data.tape import Tape
from voltrade.model import MINUTE_MS, Marks, Trades
from voltrade.simulated.mark_columns import USUAL_FUNDING_MS, each_once, fundings_missing, minutes_without_mark
from voltrade.simulated.symbols import shipped_instrument, shipped_rules, shipped_symbols

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
    missing_in_warm_up: int = 0
    """Ids that are missing in the trades before, which indicators are warmed up with."""
    marks_off: str = ""
    """Days whose mark prices can't be those of the trades, and how far they are off; see `mark_basis`."""

    @staticmethod
    def of(tape: Tape, first: int = 0, end: int | None = None) -> Coverage:
        """Return the coverage of a tape from trade `first` up to trade `end`, by default its end."""
        trades = tape.trades[first:end]
        missing = ids_missing_before(trades.id)
        begin_ms, end_ms = int(trades.time[0]), int(trades.time[-1])
        without_mark = lost = None
        fundings, off = 0, ""
        if tape.marks is not None:
            without_mark = len(minutes_without_mark(tape.marks, begin_ms, end_ms))
            off = days_off_text(_days_off(tape.marks, trades))
        if tape.funding is not None:
            times = each_once(tape.funding).time
            fundings = int(((times > begin_ms) & (times <= end_ms)).sum())
            lost = fundings_missing(tape.funding, begin_ms, end_ms, known_interval_ms(trades.symbol))
        return Coverage(
            trades=len(trades),
            ids_missing=int(missing.sum()),
            id_gaps=int((missing > 0).sum()),
            minutes=end_ms // MINUTE_MS - begin_ms // MINUTE_MS,
            minutes_without_mark=without_mark,
            fundings=fundings,
            fundings_missing=lost,
            open_days=tape.open_days,
            missing_in_warm_up=int(ids_missing_before(tape.trades.id[: first + 1]).sum()),
            marks_off=off,
        )

    @property
    def missing_parts(self) -> dict[str, float]:
        """The missing part of trades, mark prices and funding rates; 0 of what the tape has nothing of."""
        lost, rows = self.fundings_missing or 0, self.fundings
        return {
            "trades": self.ids_missing / max(1, self.trades + self.ids_missing),
            "mark prices": (self.minutes_without_mark or 0) / max(1, self.minutes),
            "funding rates": lost / max(1, rows + lost),
        }

    @property
    def missing(self) -> float:
        """The largest missing part, see `missing_parts`."""
        return max(self.missing_parts.values())

    @property
    def warning(self) -> str:
        """What a result on this tape is marked with; empty where hardly anything is missing or wrong, or where
        there are no mark prices or no funding rates at all."""
        lacking = [f"{part:.1%} of the {name}" for name, part in self.missing_parts.items() if part > MARKED_ABOVE]
        incomplete = [f"INCOMPLETE TAPE: without {', '.join(lacking)}"] if lacking else []
        wrong = [f"WRONG MARK PRICES: in the median off the last trades on {self.marks_off}"] if self.marks_off else []
        return ". ".join([*incomplete, *wrong])

    @property
    def gaps_text(self) -> str:
        """What is missing of the trades."""
        open_days = f"; not known to be whole: {', '.join(self.open_days)}" if self.open_days else ""
        before = f"; {self.missing_in_warm_up:,} ids are missing in the warm-up before" * (self.missing_in_warm_up > 0)
        if not self.ids_missing:
            return f"no id is missing between its trades{before}{open_days}"
        part = self.missing_parts["trades"]
        return f"{self.ids_missing:,} ids are missing in {self.id_gaps:,} gaps ({part:.2%}){before}{open_days}"

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
        off = f"; they are in the median off the last trades on {self.marks_off}" if self.marks_off else ""
        return f"the exchange's, one a minute{holes}{off}"

    def funding_text(self, without: str) -> str:
        """Return where funding rates are from; `without` describes those of a tape that has none."""
        lost = self.fundings_missing
        if lost is None:
            return without
        holes = f"; {lost:,} of {self.fundings + lost:,} rows are missing and were not paid" if lost else ""
        return f"the exchange's, {self.fundings:,} rows{holes}"


def _days_off(marks: Marks, trades: Trades) -> dict[date, float]:
    """Return the days of some trades whose mark prices can't be theirs; none where the symbol's tick isn't known."""
    if trades.symbol not in shipped_symbols():
        return {}
    inside = (marks.time >= trades.time[0]) & (marks.time <= trades.time[-1])
    part = Marks(marks.time[inside], marks.price_e8[inside])
    return days_off(part, trades, shipped_instrument(trades.symbol).tick_size)


def known_interval_ms(symbol: str) -> int:
    """Return a symbol's interval between two funding times, ms; the usual one where it isn't known."""
    return shipped_rules(symbol).funding_interval_ms if symbol in shipped_symbols() else USUAL_FUNDING_MS
