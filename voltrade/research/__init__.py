"""Backtests, sweeps and walk-forwards over a tape, and the compiled loop that runs them."""
