"""Frames, statistics, tables and charts of a run or a backtest."""
