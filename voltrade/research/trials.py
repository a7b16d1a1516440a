"""The trials of a sweep: every combination of a grid, or a number of random draws from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from voltrade.config import Config, parameter_homes, refuse_unknown
from voltrade.errors import ConfigError, VoltradeError
from voltrade.report.performance import Figures
from voltrade.research.prepared_tape import Research
from voltrade.research.trial_worker import TrialResult, TrialResults
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.check import refuse_impure
from voltrade.strategy.rule_file import load_rule

Choices = Iterable[Any] | Callable[[np.random.Generator], Any]
"""Values of a swept parameter, or a function that draws a value."""

FIGURES = tuple(figure.name for figure in fields(Figures))

TRAINING = ("sharpe, training", "halted, training")
"""Columns of a walk-forward's table about the training of the chosen trial."""

COLUMNS = (*FIGURES, "path", "extrapolated", "halted", "begin", "end", "missing", *TRAINING)
"""Columns of the tables, besides the swept parameters."""

SWEPT_OF_SESSION = ("rule", "duration_s", "on_duration_end")
"""Session parameters that can be swept; the others choose the tape, or have no effect in a backtest."""


class Trials(NamedTuple):
    """The trials of a sweep, and the combinations that aren't allowed."""

    chosen: list[dict[str, Any]]
    """Swept parameters of each trial."""
    configs: list[Config]
    """All settings of each trial; every trial is different."""
    refused: list[tuple[dict[str, Any], str]]
    """Swept parameters of each combination that isn't allowed, with the reason."""
    rules: dict[str, type[SignalEngine]]
    """Rules by their names in the settings."""

    def split(self, results: Sequence[TrialResults]) -> tuple[Trials, list[list[TrialResult]]]:
        """Move trials that couldn't be traded to `refused`; return the other trials, with the results of each.

        Raises:
            ConfigError: there are no other trials.
        """
        left = Trials([], [], list(self.refused), self.rules)
        outcomes: list[list[TrialResult]] = []
        for parameters, config, result in zip(self.chosen, self.configs, results, strict=True):
            if isinstance(result, VoltradeError):
                left.refused.append((parameters, str(result)))
            else:
                left.chosen.append(parameters)
                left.configs.append(config)
                outcomes.append(result)
        return left.checked(), outcomes

    def checked(self) -> Trials:
        """Return these trials.

        Raises:
            ConfigError: there are no trials.
        """
        if not self.configs:
            reason = f": {self.refused[0][1]}" if self.refused else ""
            raise ConfigError(f"sweep: must have at least one setting that is allowed, had none{reason}")
        return self


def trials_of(
    research: Research,
    config: Config,
    grid: Mapping[str, Choices],
    trials: int | None,
    seed: int,
    rule: type[SignalEngine] | None = None,
) -> Trials:
    """Return the trials of a grid, or `trials` random ones; equal settings are one trial.

    A trial has only those swept parameters that its rule has.

    Raises:
        ConfigError: a parameter is unknown, can't vary or has no choices, `trials` or `seed` is impossible, or there
            are no trials.
        DataError: the tape is of another symbol than `config`.
    """
    for name, number, least in (("trials", 1 if trials is None else trials, 1), ("seed", seed, 0)):
        if not is_integer_from(number, least):
            raise ConfigError(f"{name}: must be a whole number from {least} on, was {number!r}")
    if rule and "rule" in grid:
        raise ConfigError(f"rule: can't vary where {rule.__name__} is given, was {grid['rule']!r}")
    choices = {name: _choices_of(name, given) for name, given in grid.items()}
    tried = list(_grid(choices) if trials is None else _drawn(choices, trials, seed))
    names = dict.fromkeys(parameters.get("rule", config.session.rule) for parameters in tried)
    rules, bases, broken = _rules_of(names, config, rule)
    known = [parameter_homes(type(base.signals)) for base in (config, *bases.values())]
    _check_names(grid, {name: home for homes in known for name, home in homes.items()})
    found: dict[Config, dict[str, Any]] = {}
    refused: list[tuple[dict[str, Any], str]] = []
    for parameters in tried:
        name = parameters.get("rule", config.session.rule)
        if name in broken:
            refused.append((parameters, broken[name]))
            continue
        homes = parameter_homes(rules[name].settings_type)
        its_own = {name: value for name, value in parameters.items() if name in homes}
        try:
            changed = bases[name].changed(**its_own)
            research.check(changed)
        except ConfigError as error:
            refused.append((parameters, str(error)))
        else:
            found.setdefault(changed, its_own)
    return Trials(list(found.values()), list(found), refused, rules).checked()


def _rules_of(
    names: Iterable[str], config: Config, rule: type[SignalEngine] | None
) -> tuple[dict[str, type[SignalEngine]], dict[str, Config], dict[str, str]]:
    """Load rules; return them, `config` with the settings class of each, and the errors of others."""
    rules: dict[str, type[SignalEngine]] = {}
    bases: dict[str, Config] = {}
    broken: dict[str, str] = {}
    for name in names:
        try:
            loaded = rule or load_rule(name)
            signals = config.signals.converted_to(loaded.settings_type)
            refuse_impure(loaded, signals)
            bases[name] = config.model_copy(update={"signals": signals})
            rules[name] = loaded
        except ConfigError as error:
            broken[name] = str(error)
    return rules, bases, broken


def _check_names(grid: Mapping[str, Choices], homes: Mapping[str, str]) -> None:
    refuse_unknown(grid, homes)
    for name in grid:
        if homes[name] == "session" and name not in SWEPT_OF_SESSION:
            raise ConfigError(f"{name}: can't vary in a search, which trades one tape, was {grid[name]!r}")
        if name in COLUMNS:
            raise ConfigError(f"{name}: can't vary in a search, whose table has a column of this name already")


def _choices_of(name: str, given: Choices) -> list[Any] | Callable[[np.random.Generator], Any]:
    """Return the values of a parameter as a list, or the function that draws one."""
    if callable(given):
        return given
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigError(f"{name}: must be values, as in [{given!r}], or a function that draws one, was {given!r}")
    values = [_plain(value) for value in given]
    if not values:
        raise ConfigError(f"{name}: must have at least one value to try, was {given!r}")
    return values


def _grid(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, choices in grid.items():
        if callable(choices):
            raise ConfigError(f"{name}: must be values in a grid; a function is drawn from, with trials=")
    for combination in itertools.product(*grid.values()):
        yield dict(zip(grid, combination, strict=True))


def _drawn(grid: Mapping[str, Any], trials: int, seed: int) -> Iterator[dict[str, Any]]:
    chance = np.random.default_rng(seed)
    for _ in range(trials):
        yield {
            name: _plain(choices(chance)) if callable(choices) else choices[int(chance.integers(len(choices)))]
            for name, choices in grid.items()
        }


def _plain(value: Any) -> Any:
    """Convert a numpy number to a Python one, as settings need."""
    return value.item() if isinstance(value, np.generic) else value


def is_integer_from(number: object, least: int) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool) and int(number) >= least
