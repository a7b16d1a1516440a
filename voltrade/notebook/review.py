"""The review of a run: what it did and why, its costs, a backtest over the same trades, and whether it was changed.

`Review` reads the run's journal and computes everything. `notebooks/review.ipynb` shows it cell by cell, and
`review_page` writes it as one page.
"""

from __future__ import annotations

import json
from functools import cached_property

import pandas as pd

from voltrade.config import Config, SignalSettings
from voltrade.errors import JournalError, VoltradeError
from voltrade.notebook.review_tables import agreement, compare, signal_table
from voltrade.notebook.run_backtest import RunBacktest, backtest_run
from voltrade.report.collector import frames_of_facts
from voltrade.report.decision_reasons import reasons
from voltrade.report.run_reader import RunReader
from voltrade.report.statistics import statistics
from voltrade.runs import run_file as records
from voltrade.runs.listing import Run, list_runs, open_run, project_root
from voltrade.runs.replay import read_start
from voltrade.runs.verify import DECISIONS, NOT_WHOLE

DECIDES_ALIKE = "The journal alone leads to the same decisions."


class Review:
    """The review of a run. Everything is computed from its journal; the record only gives state and end.

    Attributes:
        frames: What happened, as far as the journal is valid.
        config: The settings of the run.
        problems: What can't be shown, one line each.

    Raises:
        JournalError: Not even the first row of the journal is valid.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.record = run.record
        self.problems: list[str] = []
        self._reader = RunReader(run.path)
        self.verification = run.verify()
        self._chain = self.verification.chain
        self._reader.poll(until=self._chain.seq)
        if not self._reader.start:
            raise JournalError(f"{run.name}: row 1: {self._chain.rule or 'must be a Start row'}")
        if not self._chain.ok:
            self.problems.append(f"nothing is shown of what follows row {self._chain.seq:,}")
        self.frames = self._reader.frames()
        self.config = self._config()

    def _config(self) -> Config:
        try:
            return read_start(self._reader.path).config
        except VoltradeError as error:
            self.problems.append(str(error))
        # Without the rule, its own settings are unknown; all others are still valid.
        stated = self._reader.start["config"]
        known = {name: value for name, value in stated["signals"].items() if name in SignalSettings.model_fields}
        return Config.from_json(json.dumps({**stated, "signals": known}))

    # --- verification ----------------------------------------------------------------------------------------------

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Parts of the run that were not checked. `checks` includes a replay, which checks the decisions."""
        return tuple(what for what in self.verification.unchecked if what != DECISIONS)

    @cached_property
    def checks(self) -> pd.DataFrame:
        """The results of all checks: hashes, end, parameters, rule file, and a replay of the decisions."""
        return self.run.checks()

    @property
    def wrong(self) -> list[str]:
        """What was changed or lost, one line each; empty if nothing was found."""
        failed = self.checks.loc[~self.checks["ok"].fillna(True), "found"]
        return [*self.problems, *(f"{name}: {found}" for name, found in failed.items())]

    @property
    def is_whole(self) -> bool:
        """Whether no change or loss was found."""
        return not self.wrong

    @property
    def outcome(self) -> str:
        """The outcome of all checks in a sentence; followed by what is wrong, one line each."""
        if self.wrong:
            return "\n".join([NOT_WHOLE, *self.wrong])
        return f"{self.verification.outcome} {DECIDES_ALIKE}"

    # --- what happened and why -------------------------------------------------------------------------------------

    @cached_property
    def signal_table(self) -> pd.DataFrame:
        """One row per signal: its conditions, its outcome, and the end of its trade."""
        return signal_table(self.frames)

    @cached_property
    def every_bar(self) -> pd.DataFrame:
        """One row per bar with its prices and its decision."""
        bars, decisions = self.frames.bars, self.frames.decisions
        values = decisions.drop(columns=["bar", "close"])
        why = pd.DataFrame({"why": pd.array(reasons(decisions), dtype="str")}, index=bars.index)
        shown = bars[["bar", "duration_s", "open", "high", "low", "close", "volume", "trade_count", "close_reason"]]
        return pd.concat([shown, values[["signal", "outcome"]], why, values.select_dtypes("float")], axis=1)

    # --- what a backtest would have done -----------------------------------------------------------------------------

    @cached_property
    def backtest(self) -> RunBacktest:
        """A backtest with the run's settings and rule over the trades in its journal."""
        if not self.verification.ok:
            return RunBacktest(None, ("no backtest: the journal's trades can't be trusted",))
        try:
            return backtest_run(self._reader.path, self.run.name, self.frames)
        except VoltradeError as error:
            return RunBacktest(None, (f"no backtest: {error}",))

    @cached_property
    def compared(self) -> pd.DataFrame:
        """One row per round trip of the run, the backtest, or both; empty without a backtest."""
        nothing = frames_of_facts(self.frames.instrument, [], [])
        return compare(self.frames, self.backtest.frames or nothing)

    @property
    def agreement(self) -> str:
        """A sentence about how many of the run's round trips the backtest makes too."""
        return agreement(self.compared)

    @cached_property
    def figures(self) -> pd.DataFrame:
        """Statistics of the run, and of the backtest if there is one."""
        columns = {"run": statistics(self.frames).table()["value"]}
        if self.backtest.frames is not None:
            columns["backtest"] = statistics(self.backtest.frames).table()["value"]
        return pd.DataFrame(columns)


def newest() -> Run | None:
    """Return the newest run of the project that has a journal; None if there is none."""
    for name in list_runs().index:
        folder = project_root() / "runs" / name
        if records.read(folder).get("begun"):
            return open_run(folder)
    return None
