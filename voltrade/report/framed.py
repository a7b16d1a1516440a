"""What a backtest and a run have alike: their frames, each under its own name; `frames.Frames` says what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a backtest imports pandas when its frames are looked at
    import pandas as pd


class Framed:
    """Whatever has the frames of trading."""

    def _frame(self, name: str) -> pd.DataFrame:
        raise NotImplementedError

    @property
    def decisions(self) -> pd.DataFrame:
        """One row a bar: its signal, what became of it, and every indicator and condition of its decision."""
        return self._frame("decisions")

    @property
    def orders(self) -> pd.DataFrame:
        """One row a client order id."""
        return self._frame("orders")

    @property
    def fills(self) -> pd.DataFrame:
        """One row a trade id."""
        return self._frame("fills")

    @property
    def round_trips(self) -> pd.DataFrame:
        """One row a closed round trip."""
        return self._frame("round_trips")

    @property
    def equity(self) -> pd.DataFrame:
        """One row a valuation of the account, at every mark price and fill."""
        return self._frame("equity")

    @property
    def refusals(self) -> pd.DataFrame:
        """One row a signal that a gate refused."""
        return self._frame("refusals")

    @property
    def breaker(self) -> pd.DataFrame:
        """One row a change of the circuit breaker."""
        return self._frame("breaker")
