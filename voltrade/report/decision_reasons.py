"""Says in words what a strategy decided at each bar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from voltrade.report.frames import DECISIONS, WITHOUT_A_RULE


def reasons(decisions: pd.DataFrame) -> list[str]:
    """Return what each bar's rule decided: triggers that fired, filters that passed or refused; empty where none fired.

    A filter of the built-in rule is named only where it refused, a filter of another rule always. For a bar with a
    signal, the filters of the other side (`..._long` or `..._short`) are left out.
    """
    values = decisions.drop(columns=list(DECISIONS))
    triggers, filters = ([str(name) for name in values.select_dtypes(kind)] for kind in ("integer", "bool"))
    signal = decisions["signal"].map({"BUY": 1, "SELL": -1}).fillna(0).to_numpy(dtype=np.int64)
    columns = [signal, *(values[name].to_numpy() for name in (*triggers, *filters))]
    case_of = np.zeros(len(decisions), dtype=np.int64)
    for column in columns:
        kinds, kind_of = np.unique(column, return_inverse=True)
        case_of = np.unique(case_of * len(kinds) + kind_of, return_inverse=True)[1]
    _, places = np.unique(case_of, return_index=True)  # few: most bars have the same
    texts = [_reason(triggers, filters, [int(column[place]) for column in columns]) for place in places]
    return [texts[case] for case in case_of.tolist()]


def _reason(triggers: Sequence[str], filters: Sequence[str], case: Sequence[int]) -> str:
    """Return what the rule decided; `case` has the values of the signal, the triggers and the filters."""
    fired = [f"{name} {value:+d}" for name, value in zip(triggers, case[1:], strict=False) if value]
    if not fired and not case[0]:
        return ""
    other = {1: "_short", -1: "_long"}.get(case[0], "no such side")
    answers = {
        name: answer
        for name, answer in zip(filters, case[1 + len(triggers) :], strict=True)
        if not name.endswith(other)
    }
    passed = [f"{name} yes" for name, answer in answers.items() if answer and name not in WITHOUT_A_RULE]
    return " · ".join(fired + passed + [f"{name} no" for name, answer in answers.items() if not answer])
