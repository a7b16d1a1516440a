"""The search log: trials on one market add up, whatever its days, however many sweeps and notebooks they were tried in.

Each search leaves a small file in the state folder: which settings it tried, and what the luckiest of them would show
by luck alone in each resample. A search is judged together with the others on its market, as `Searches.luckiest` says:
those that tried about as much count whenever they traded, those that tried more by the time that they share. The same
settings count once. What a walk-forward chooses from in its training is the only exception: a search of nothing else
has decided nothing that the walk-forward does not decide again before each test.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from voltrade.report.bootstrap import RESAMPLES, Luckiest, of_some, on_a_part
from voltrade.report.judgement import UNKNOWN_TRIALS, Judgement
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.code_hash import code_hash
from voltrade.strategy.rule_file import RuleAsLoaded

VERSION = 1
"""Version of the files; a file of another version is left out with a warning."""

AS_MANY = 2
"""A search that tried at most so many times as many settings counts as another try of the same, at whatever time."""

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
    content: str = ""
    """A hash of what the tape has of it, see `Tape.fingerprint`."""

    @staticmethod
    def of(tape: Tape, began: int, ended: int) -> TradedTime:
        symbol = tape.trades.symbol
        market = f"{symbol}, {tape.source}" if tape.synthetic else symbol
        return TradedTime(market, began, ended, tape.fingerprint(began, ended))

    def share_in(self, parts: Iterable[TradedTime]) -> float:
        """Return how much of this time lies in any of some others of the same market."""
        shared, done = 0, self.began
        for part in sorted(parts, key=lambda part: part.began):
            end = min(part.ended, self.ended)
            shared += max(end - max(part.began, done), 0)
            done = max(done, end)
        return shared / max(self.ended - self.began, 1)


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
    missing: float = 0.0
    """Largest missing part of its tape: trades, mark prices or funding rates."""

    @property
    def name(self) -> str:
        """Name of its file: a search that is made again, over the same data, is kept once."""
        text = f"{self.kind} {self.traded} {sorted(self.settings)}"
        return f"{sha256(text.encode()).hexdigest()[:16]}.json"

    def besides(self, chosen_from: Collection[str]) -> list[str]:
        """Return the settings that it tried besides those that a walk-forward chooses from."""
        return [each for each in self.settings if self.kind != "settings" or each not in chosen_from]

    def with_luck_of(self, others: Iterable[Search]) -> Search:
        """Return it as lucky as it was when it was made before: what is made again never lowers what the log knows."""
        alike = [each.luckiest for each in others if each.name == self.name]
        if not alike:
            return self
        maxima = np.max([each.maxima for each in (self.luckiest, *alike)], axis=0)
        independent = max(each.independent for each in (self.luckiest, *alike))
        return replace(self, luckiest=Luckiest(maxima, independent))

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
    """The searches that count for one of them: itself, and others on the same market.

    Attributes:
        own: the search itself.
        others: the others that count.
    """

    def __init__(
        self, own: Search, others: Iterable[Search], chosen_from: Collection[str] = (), entries: Collection[int] = ()
    ) -> None:
        """Take those that count, of all others on the market; `chosen_from` and `entries` as in `keep`."""
        self.own = own
        self._chosen_from = chosen_from
        self._entries = entries
        possible = [each for each in others if each.name != own.name and each.besides(chosen_from)]
        self._shares = {each.name: self._share(each, possible) for each in possible}
        self.others = [each for each in possible if self._shares[each.name] > 0]

    def _share(self, search: Search, others: Sequence[Search]) -> float:
        """Return the part of the own time for which another search counts, together with those of the same settings.

        It is the part of the own entries where that is more: a rule may enter in a part of its time only.
        """
        if len(search.besides(self._chosen_from)) <= AS_MANY * len(self.own.settings):
            return 1.0
        alike = [each.traded for each in others if not set(each.settings).isdisjoint(search.settings)]
        inside = [any(part.began <= entry <= part.ended for part in alike) for entry in self._entries]
        return max(self.own.traded.share_in(alike), float(np.mean(inside)) if inside else 0.0)

    @property
    def luckiest(self) -> list[Luckiest]:
        """The luckiest of each of the others, as far as it counts.

        A search that tried about as many settings is another try: the best of several parts of a tape is shown. One
        that tried more has chosen what is tried here: on the time that both share, and nowhere else. Its luckiest does
        as well over the whole time as sqrt(share) of its statistic and sqrt(1 - share) of a new one.
        """
        some = [(each, len(each.besides(self._chosen_from)) / len(each.settings)) for each in self.others]
        own, shares = self.own.luckiest, self._shares
        return [on_a_part(of_some(each.luckiest, part), own, shares[each.name]) for each, part in some]

    def with_later(self) -> Searches:
        """Return them with those that were made since, of which this one may be the best."""
        try:
            later = _read_all(_folder(self.own.traded.market))
        except (OSError, VoltradeError):  # which was told when this search was kept
            return self
        known = {each.name: each for each in (*self.others, *later)}
        return Searches(self.own, known.values(), self._chosen_from, self._entries)

    @property
    def trials(self) -> int:
        """Number of different settings of all."""
        tried = (each for search in self.others for each in search.besides(self._chosen_from))
        return len({*self.own.settings, *tried})

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
                "missing": search.missing,
            }
            for search in sorted((*self.others, self.own), key=lambda search: search.made)
        ]
        return pd.DataFrame(rows)

    def forget(self) -> int:
        """Delete all searches on this market from the log; return their number. Results keep what they counted."""
        return forget(self.own.traded.market)

    def _repr_html_(self) -> str:
        head = f"{self.trials:,} different settings count that were tried on {self.own.traded.market}"
        table = self.frame.to_html(index=False, float_format="{:,.4g}".format)
        return f"<p>{head}. {UNKNOWN_TRIALS}</p>{table}"


class CountingLater:
    """A judgement together with the searches that count, made anew whenever others were made since it was read."""

    def __init__(self, searches: Searches, judge: Callable[[Searches], Judgement]) -> None:
        self._searches, self._judge = searches, judge
        self._judgements: dict[tuple[bytes, ...], Judgement] = {}

    @property
    def searches(self) -> Searches:
        """The search and the others that count, those made since then included."""
        self._searches = self._searches.with_later()
        return self._searches

    @property
    def judgement(self) -> Judgement:
        """The judgement by all that counts now."""
        searches = self.searches
        key = tuple(search.written() for search in searches.others)
        if key not in self._judgements:
            self._judgements = {key: self._judge(searches)}
        return self._judgements[key]


def settings_hash(config: Config, rule: type[SignalEngine] | None = None, state: bytes = b"") -> str:
    """Return a hash of what is traded: settings without those of the session, and the rule's file or else its code.

    `state` is that of an engine that has seen bars before.
    """
    rule = rule or SignalEngine
    return _settings_hash(config, rule, _rule_hash(rule), state)


def settings_hashes(configs: Iterable[Config], rules: Mapping[str, type[SignalEngine]]) -> list[str]:
    """Return the hash of each of the settings of a search, with its rules by their names in the settings."""
    does = {name: _rule_hash(rule) for name, rule in rules.items()}  # reading code takes a millisecond
    return [_settings_hash(config, rules[config.session.rule], does[config.session.rule]) for config in configs]


def _settings_hash(config: Config, rule: type[SignalEngine], does: str, state: bytes = b"") -> str:
    if not isinstance(config.signals, rule.settings_type):  # as the engine does
        config = config.model_copy(update={"signals": config.signals.converted_to(rule.settings_type)})
    session = (config.session.rule, config.session.duration_s, str(config.session.on_duration_end))
    text = f"{config.model_dump_json(exclude={'session'})} {session} {does}{state.hex()}"
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
    missing: float = 0.0,
    entries: Collection[int] = (),
) -> Searches:
    """Write a search to the search log and return it with those that count for it.

    Args:
        chosen_from: what a walk-forward chooses from in its training.
        missing: the largest missing part of the tape.
        entries: when positions were entered, ms UTC, where that is known.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    search = Search(kind, traded, ", ".join(what), tuple(dict.fromkeys(settings)), sharpe, luckiest, made, missing)
    others: list[Search] = []
    try:
        folder = _folder(traded.market)
        others = _read_all(folder)
        search = search.with_luck_of(others)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = folder / f".{search.name}.{os.getpid()}"
        fresh.write_bytes(search.written())
        fresh.replace(folder / search.name)
    except (OSError, VoltradeError) as error:
        warnings.warn(f"trials of this search will not add up with others: {error}", SearchesWarning, stacklevel=3)
    return Searches(search, others, chosen_from, entries)


def forget(market: str) -> int:
    """Delete all searches on a market from the search log; return their number."""
    paths = list(_folder(market).glob("*.json"))
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _folder(market: str) -> Path:
    return state_home(os.environ) / "searches" / sha256(market.encode()).hexdigest()[:16]


def _read_all(folder: Path) -> list[Search]:
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Search.read(path))
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path}: its trials don't count, since {error}", SearchesWarning, stacklevel=4)
    return found
