"""The search log: trials on one tape add up, however many sweeps and notebooks they were tried in.

Each search leaves a small file in the state folder: which settings it tried, and what the luckiest of them would show
by luck alone in each resample. A later search is judged together with those that traded at least half of its time,
whatever their kind. The same settings count once. What a walk-forward chooses from in its training is the only
exception: a search of nothing else has decided nothing that the walk-forward does not decide again before each test.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from voltrade.config import Config
from voltrade.data.tape import Tape
from voltrade.errors import VoltradeError
from voltrade.folders import state_home
from voltrade.report.bootstrap import RESAMPLES, Luckiest
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.code_hash import code_hash
from voltrade.strategy.rule_file import RuleAsLoaded

VERSION = 1
"""Version of the files; a file of another version is left out with a warning."""

LEAST_SHARED = 0.5
"""A search counts for another one if it traded so much of the other's time."""

DIGITS = 4
"""Decimal places of statistics in a file."""

Kind = Literal["settings", "walk-forward"]


class SearchesWarning(UserWarning):
    """Trials of other searches don't count, or these will not count for others."""


class TradedTime(NamedTuple):
    """The part of a market's time that was traded, ms UTC."""

    market: str
    """Symbol; for a synthetic tape with its source, as each is a market of its own."""
    began: int
    ended: int

    @staticmethod
    def of(tape: Tape, began: int, ended: int) -> TradedTime:
        symbol = tape.trades.symbol
        return TradedTime(f"{symbol}, {tape.source}" if tape.synthetic else symbol, began, ended)

    def share_of(self, other: TradedTime) -> float:
        """Return how much of another time of the same market lies in this one."""
        both = min(self.ended, other.ended) - max(self.began, other.began)
        return max(both, 0) / max(other.ended - other.began, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What was tried in one search, and how lucky its luckiest trial would be."""

    kind: Kind
    traded: TradedTime
    what: str
    """Names of the swept parameters."""
    settings: tuple[str, ...]
    """A hash of the settings of each trial."""
    sharpe: float
    """Of its best trial, annualised."""
    luckiest: Luckiest
    made: str
    """When, UTC."""

    @property
    def name(self) -> str:
        """Name of its file: a search that is made again replaces itself."""
        text = f"{self.kind} {self.traded} {sorted(self.settings)}"
        return f"{sha256(text.encode()).hexdigest()[:16]}.json"

    def tried_only(self, settings: Collection[str]) -> bool:
        """Whether it is a search of some of these settings and no others."""
        return self.kind == "settings" and set(self.settings) <= set(settings)

    def written(self) -> bytes:
        maxima = np.round(self.luckiest.maxima, DIGITS).tolist()
        luckiest = {"maxima": maxima, "independent": self.luckiest.independent}
        told = asdict(self) | {"traded": self.traded._asdict(), "luckiest": luckiest, "version": VERSION}
        return json.dumps(told).encode()

    @staticmethod
    def read(path: Path) -> Search:
        """Read a file.

        Raises:
            ValueError: it isn't a search of this version.
        """
        told: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(told, dict):
            raise ValueError("it is no search")
        if told.pop("version", None) != VERSION or len(told["luckiest"]["maxima"]) != RESAMPLES:
            raise ValueError("it is of another version")
        traded, luckiest = TradedTime(**told.pop("traded")), told.pop("luckiest")
        maxima = np.array(luckiest["maxima"], dtype=np.float64)
        settings = tuple(told.pop("settings"))
        return Search(**told, settings=settings, traded=traded, luckiest=Luckiest(maxima, luckiest["independent"]))


class Searches:
    """The searches that count for one of them: itself, and those on the same tape.

    Attributes:
        own: the search itself.
        others: the others.
    """

    def __init__(self, own: Search, others: Sequence[Search]) -> None:
        self.own = own
        self.others = list(others)

    @property
    def trials(self) -> int:
        """Number of different settings of all."""
        return len({each for search in (self.own, *self.others) for each in search.settings})

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each search, the oldest first."""
        rows = [
            {
                "made": pd.Timestamp(search.made),
                "varied": search.what,
                "from": pd.Timestamp(search.traded.began, unit="ms", tz="UTC"),
                "to": pd.Timestamp(search.traded.ended, unit="ms", tz="UTC"),
                "settings": len(search.settings),
                "independent": search.luckiest.independent,
                "best sharpe": search.sharpe,
            }
            for search in sorted((*self.others, self.own), key=lambda search: search.made)
        ]
        return pd.DataFrame(rows)

    def forget(self) -> int:
        """Delete all searches on this market from the ledger; return their number. Results keep what they counted."""
        return forget(self.own.traded.market)

    def _repr_html_(self) -> str:
        head = f"{self.trials:,} different settings were tried on {self.own.traded.market} in this time"
        table = self.frame.to_html(index=False, float_format="{:,.4g}".format)
        return f"<p>{head}.</p>{table}"


def settings_hash(config: Config, rule: type[SignalEngine] | None = None) -> str:
    """Return a hash of what is traded: settings without those of the session, and the rule's file or else its code."""
    return _settings_hash(config, _rule_hash(rule or SignalEngine))


def settings_hashes(configs: Iterable[Config], rules: Mapping[str, type[SignalEngine]]) -> list[str]:
    """Return the hash of each of the settings of a search, with its rules by their names in the settings."""
    does = {name: _rule_hash(rule) for name, rule in rules.items()}  # reading code takes a millisecond
    return [_settings_hash(config, does[config.session.rule]) for config in configs]


def _settings_hash(config: Config, does: str) -> str:
    session = (config.session.rule, config.session.duration_s, str(config.session.on_duration_end))
    text = f"{config.model_dump_json(exclude={'session'})} {session} {does}"
    return sha256(text.encode()).hexdigest()[:16]


def _rule_hash(rule: type[SignalEngine]) -> str:
    file = RuleAsLoaded.of(rule)
    return file.sha256 if file else code_hash(rule)


def keep(
    kind: Kind,
    traded: TradedTime,
    what: Iterable[str],
    settings: Iterable[str],
    sharpe: float,
    luckiest: Luckiest,
    chosen_from: Collection[str] = (),
) -> Searches:
    """Write a search to the ledger and return it with those that count for it.

    Args:
        chosen_from: what a walk-forward chooses from in its training.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    search = Search(kind, traded, ", ".join(what), tuple(dict.fromkeys(settings)), sharpe, luckiest, made)
    try:
        folder = _folder(traded.market)
        others = [other for other in _all_in(folder) if other.name != search.name]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = folder / f".{search.name}.{os.getpid()}"
        fresh.write_bytes(search.written())
        fresh.replace(folder / search.name)
    except (OSError, VoltradeError) as error:
        warnings.warn(f"trials of this search will not add up with others: {error}", SearchesWarning, stacklevel=3)
        others = []
    on_this_time = (each for each in others if each.traded.share_of(traded) >= LEAST_SHARED)
    return Searches(search, [each for each in on_this_time if not each.tried_only(chosen_from)])


def forget(market: str) -> int:
    """Delete all searches on a market from the ledger; return their number."""
    paths = list(_folder(market).glob("*.json"))
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _folder(market: str) -> Path:
    return state_home(os.environ) / "searches" / sha256(market.encode()).hexdigest()[:16]


def _all_in(folder: Path) -> list[Search]:
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Search.read(path))
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path}: its trials don't count, since {error}", SearchesWarning, stacklevel=4)
    return found
