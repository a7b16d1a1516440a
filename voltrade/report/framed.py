"""The frames that a backtest and a run have in common; `frames.Frames` describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a backtest imports pandas only when its frames are used
    import pandas as pd


class Framed:
    """Something with the frames of trading."""

    def _frame(self, name: str) -> pd.DataFrame:
        raise NotImplementedError

    @property
    def decisions(self) -> pd.DataFrame:
        """One row for each bar: its signal, what happened to it, and every indicator and condition of its decision."""
        return self._frame("decisions")

    @property
    def orders(self) -> pd.DataFrame:
        """One row for each client order id."""
        return self._frame("orders")

    @property
    def fills(self) -> pd.DataFrame:
        """One row for each trade id."""
        return self._frame("fills")

    @property
    def round_trips(self) -> pd.DataFrame:
        """One row for each closed round trip."""
        return self._frame("round_trips")

    @property
    def equity(self) -> pd.DataFrame:
        """One row for each valuation of the account, at every fill and, once a minute, at mark prices."""
        return self._frame("equity")

    @property
    def refusals(self) -> pd.DataFrame:
        """One row for each signal that a gate refused."""
        return self._frame("refusals")

    @property
    def breaker(self) -> pd.DataFrame:
        """One row for each change of the circuit breaker."""
        return self._frame("breaker")
