"""What the figures of research rest on: data and what it lacks, filters, fills, fees, versions and hashes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from voltrade.compiled import source_key
from voltrade.config import Config
from voltrade.data.coverage import Coverage
from voltrade.data.tape import Tape
from voltrade.errors import ConfigError
from voltrade.model import Instrument
from voltrade.research import loop
from voltrade.simulated.fill_model import MOST_EXTRAPOLATED
from voltrade.strategy.rule_file import RuleFile


def rests_on(config: Config, tape: Tape, instrument: Instrument, coverage: Coverage, tainted: int) -> list[str]:
    """Return what must be known to read the figures of some settings on a part of a tape.

    Args:
        tainted: number of bars that miss trades.
    """
    execution = config.execution
    simulated = f"last price within 3 bps, every {execution.mark_interval_s} s, seed {config.session.seed}"
    one_rate = f"{float(execution.funding_rate):.4%} each time" if execution.funding_rate else "0"
    return [
        f"trades: {tape.source}; {coverage.gaps_text}; {tainted:,} tainted bars",
        f"filters: {instrument.source}",
        f"fills: all at once, {execution.latency_ms} ms after the decision, priced by the trades of the next "
        f"{execution.fill_horizon_s:g} s, slippage {execution.slippage_bps:g} bps, taker fee "
        f"{float(execution.taker_fee):.3%}; no order book",
        f"mark = {coverage.mark_text(simulated)}",
        f"funding = {coverage.funding_text(one_rate)}",
    ]


def extrapolated_text(part: float, most: str = "") -> str:
    """Return a note about the part of the notional that no trade of the tape gave; `most` stands before the part."""
    thin = f": MORE THAN {MOST_EXTRAPOLATED:.0%}, so that this is a guess; trade less on this tape"
    marked = thin if part > MOST_EXTRAPOLATED else ""
    return f"extrapolated: {most}{part:.1%} of the notional, beyond what the tape's trades filled{marked}"


def made_from(tape: Tape, rules: Iterable[str]) -> str:
    """Return what a result could be made again from: versions, and hashes of the code, the rules and the tape."""
    hashes = {"code": source_key(Path(loop.__file__)), "tape": tape.sha256()[:16]}
    for name in filter(None, rules):
        with suppress(ConfigError):  # of a rule that was given as a class there need be no file
            hashes[f"rule {name}"] = RuleFile.named(name).sha256[:16]
    words = ", ".join(f"{name} {key}" for name, key in hashes.items())
    return f"voltrade {version('voltrade')}, numba {version('numba')}, numpy {version('numpy')}; hashes: {words}"
