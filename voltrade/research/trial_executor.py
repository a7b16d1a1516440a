"""Spreads trials over threads, processes or a cluster."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from voltrade.config import Config
from voltrade.data.tape import Tape, TapeReport
from voltrade.model import Funding, Marks, Trades
from voltrade.research.prepared_tape import Research
from voltrade.research.trial_worker import Job, SentConfig, TrialResult, TrialResults, TrialWorker
from voltrade.research.trials import Trials

FEWEST_TASKS = 16
"""Trials are divided into at least so many tasks of equal size, so that all workers end at about the same time."""

LARGEST_TASK = 100
"""Most trials in a task: an interrupted sweep waits for the running tasks."""


@dataclass(frozen=True, slots=True)
class StoredTape:
    """A tape as files in a folder, which other processes map into memory."""

    folder: Path
    symbol: str
    source: str
    synthetic: bool
    report: TapeReport = field(compare=False)

    @staticmethod
    def write(tape: Tape, folder: Path) -> StoredTape:
        """Write each column of a tape as a file."""
        for part in (tape.trades, tape.marks, tape.funding):
            if part is not None:
                for name in _columns_of(type(part)):
                    if (column := getattr(part, name)) is not None:
                        np.save(folder / f"{type(part).__name__}.{name}.npy", column)
        return StoredTape(folder.resolve(), tape.trades.symbol, tape.source, tape.synthetic, tape.report)

    def read(self) -> Tape:
        """Return the tape, with columns that are mapped from the files."""
        trades, marks, funding = (self._mapped(kind) for kind in (Trades, Marks, Funding))
        of_exchange = Marks(**marks) if marks else None, Funding(**funding) if funding else None
        return Tape(Trades(self.symbol, **trades), self.report, self.source, self.synthetic, *of_exchange)

    def _mapped(self, kind: type[Any]) -> dict[str, Any]:
        """Map the columns of trades, marks or funding; empty where the tape has none."""
        files = {name: self.folder / f"{kind.__name__}.{name}.npy" for name in _columns_of(kind)}
        return {name: np.load(file, mmap_mode="r") for name, file in files.items() if file.exists()}


def _columns_of(kind: type[Any]) -> list[str]:
    return [column.name for column in fields(kind) if column.name != "symbol"]


@lru_cache(maxsize=1)
def _opened(stored: StoredTape) -> Research:
    return Research(stored.read())


def _run_task(source: Research | StoredTape, job: Job, settings: Sequence[Config | SentConfig]) -> list[TrialResults]:
    """Backtest some trials in a worker of this thread."""
    if getattr(_THREAD, "job", None) != (source, job):
        _THREAD.worker = TrialWorker(source if isinstance(source, Research) else _opened(source), job)
        _THREAD.job = source, job
    worker: TrialWorker = _THREAD.worker
    return worker.trade([each if isinstance(each, Config) else worker.read(each) for each in settings])


_THREAD = local()
"""The last worker of each thread: the next task uses its results and memory again."""


def trade_all(
    research: Research, job: Job, settings: Trials, executor: Executor | None, progress: bool
) -> tuple[Trials, list[list[TrialResult]]]:
    """Backtest all trials; return those that could be traded, with the results of each."""
    configs = settings.configs
    results: list[TrialResults] = [[] for _ in configs]
    with ExitStack() as stack:
        source: Research | StoredTape = research
        sent: Sequence[Config | SentConfig] = configs
        if executor is None:
            executor = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        elif not isinstance(executor, ThreadPoolExecutor):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="voltrade-sweep-")))
            source = StoredTape.write(research.tape, folder)
            job = job.for_other_processes()
            sent = [SentConfig.of(config) for config in configs]
        bar: Any = tqdm(total=len(configs), unit="setting", disable=not progress)
        stack.enter_context(bar)
        futures = {
            executor.submit(_run_task, source, job, [sent[number] for number in task]): task for task in _tasks(configs)
        }
        try:
            for future in as_completed(futures):
                for number, result in zip(futures[future], future.result(), strict=True):
                    results[number] = result
                bar.update(len(futures[future]))
        finally:
            for future in futures:
                future.cancel()
    return settings.split(results)


def _tasks(configs: Sequence[Config]) -> Iterator[list[int]]:
    """Yield the numbers of trials for each task: they share their bars, and are sorted by rule and signal settings."""
    keys = [
        (config.bars.model_dump_json(), config.session.rule, config.signals.model_dump_json()) for config in configs
    ]
    order = sorted(range(len(configs)), key=keys.__getitem__)
    for _, group in itertools.groupby(order, lambda number: keys[number][0]):
        numbers = list(group)
        wanted = max(FEWEST_TASKS * len(numbers) // len(configs), math.ceil(len(numbers) / LARGEST_TASK), 1)
        parts = min(wanted, len(numbers))
        bounds = [len(numbers) * part // parts for part in range(parts + 1)]
        yield from (numbers[start:end] for start, end in itertools.pairwise(bounds))
