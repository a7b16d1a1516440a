"""Splits a tape into folds: parts to train on, and a part to test on."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

from voltrade.errors import ConfigError
from voltrade.research.trial_worker import TimeRange
from voltrade.research.trials import is_integer_from

Scheme = Literal["expanding", "rolling", "k_fold"]


class Split(NamedTuple):
    """Time ranges to train on, and one to test on, in seconds after the tape's first trade."""

    train: tuple[TimeRange, ...]
    test: TimeRange


def walk_forward_splits(
    length_s: float, folds: int, *, begin_s: float = 0.0, rolling: bool = False, purge_s: float = 0.0
) -> list[Split]:
    """Split a tape from `begin_s` on into `folds` + 1 equal parts; each but the first is a test.

    Training ends `purge_s` before the test, so that no round trip lasts from training into the test. It begins with the
    first part, or with `rolling` one part before its end. Training never includes what comes after the test, so there
    is no embargo. The last test ends with the tape.

    Raises:
        ConfigError: `folds` or `purge_s` is impossible, or a fold has nothing to train on.
    """
    _check_splitting(folds, 1, purge_s=purge_s)
    part = (length_s - begin_s) / (folds + 1)
    bounds = [begin_s + number * part for number in range(folds + 1)]
    splits = []
    for begin, end in zip(bounds[1:], [*bounds[2:], None], strict=True):
        trained = begin - purge_s
        splits.append(Split(((max(begin_s, trained - part) if rolling else begin_s, trained),), (begin, end)))
    return _checked(splits, purge_s)


def k_fold_splits(
    length_s: float, folds: int, *, begin_s: float = 0.0, purge_s: float = 0.0, embargo_s: float = 0.0
) -> list[Split]:
    """Split a tape from `begin_s` on into equal parts; each is a test, with training on all other parts.

    Training leaves out `purge_s`, the longest time that a round trip lasts, on both sides of the test, so that no round
    trip belongs to both. It leaves out `embargo_s` more after the test, so that effects of the test's market don't leak
    into the training. Lopez de Prado, "Advances in Financial Machine Learning", 2018, 7.4.

    Raises:
        ConfigError: `folds`, `purge_s` or `embargo_s` is impossible, or a fold has nothing to train on.
    """
    _check_splitting(folds, 2, purge_s=purge_s, embargo_s=embargo_s)
    part = (length_s - begin_s) / folds
    bounds = [begin_s + number * part for number in range(folds)]
    splits = []
    for begin, end in zip(bounds, [*bounds[1:], None], strict=True):
        train: list[TimeRange] = []
        if begin - purge_s > begin_s:
            train.append((begin_s, begin - purge_s))
        if end is not None and end + purge_s + embargo_s < length_s:
            train.append((end + purge_s + embargo_s, None))
        splits.append(Split(tuple(train), (begin, end)))
    return _checked(splits, purge_s)


def splits_by(
    scheme: str, length_s: float, folds: int, begin_s: float, purge_s: float, embargo_s: float
) -> list[Split]:
    if scheme not in get_args(Scheme):
        raise ConfigError(f"scheme: must be one of {', '.join(get_args(Scheme))}, was {scheme!r}")
    if scheme == "k_fold":
        return k_fold_splits(length_s, folds, begin_s=begin_s, purge_s=purge_s, embargo_s=embargo_s)
    return walk_forward_splits(length_s, folds, begin_s=begin_s, rolling=scheme == "rolling", purge_s=purge_s)


def _check_splitting(folds: int, fewest: int, **times_s: float) -> None:
    if not is_integer_from(folds, fewest):
        raise ConfigError(f"folds: must be a whole number from {fewest} on, was {folds!r}")
    for name, time_s in times_s.items():
        if not 0 <= time_s < math.inf:
            raise ConfigError(f"{name}: must be a number of seconds from 0 on, was {time_s!r}")


def _checked(splits: list[Split], purge_s: float) -> list[Split]:
    for split in splits:
        if not split.train or any(begin >= end for begin, end in split.train if end is not None):
            raise ConfigError(
                f"folds: purging {purge_s:g} s must leave something to train on before {split.test[0]:g} s"
            )
    return splits
