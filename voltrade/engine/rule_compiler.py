"""Compiles what the cache lacks in a process of its own, while an engine that came back runs its rules as plain Python.

`RuleCompiler` is the engine's side; `python -m voltrade.engine.rule_compiler` is the process. It reads the settings of
the built-in rule from its input, and ends when that is closed, and so with its engine. Only one at a time compiles for
a cache; another waits, and finds it all there.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from contextvars import copy_context

from voltrade import bars
from voltrade.compiled import cache_home, is_kept
from voltrade.config import SignalSettings
from voltrade.core import decide
from voltrade.live import LiveTradingSystem
from voltrade.model import Trouble
from voltrade.orders import account_books
from voltrade.plain_start import begin_plain, lacking
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.rule_file import compile_own

log = logging.getLogger(__name__)

NICENESS = 10
LOCK = "compiling.lock"
"""File in the cache, locked by the process that compiles."""
WITHIN_S = 600.0
"""Longest time that it may take, on a machine that is busy too; then it is killed."""
PAUSES_S = (60.0, 600.0, 3_600.0)
"""Pauses after a failure; after one more the rules stay plain Python."""
OWN_PAUSES_S = (5.0, 60.0)
"""Pauses after a failure to compile a rule file's rule; the last one again and again."""
FAILED = "RULES_PLAIN"
"""Code of the alert."""


def load_rules(settings: SignalSettings) -> None:
    """Load the rules that a core calls, or compile them; a rule file's own is compiled by its engine."""
    bars.aggregate_loop()
    account_books.step()
    account_books.signal_step(decide)
    if type(settings) is SignalSettings:
        SignalEngine.program_for(settings)


def find_lacking(settings: SignalSettings) -> frozenset[str]:
    """Load the rules that the cache has, and compile nothing; return the names of the others."""
    return copy_context().run(_find_lacking, settings)


def _find_lacking(settings: SignalSettings) -> frozenset[str]:
    begin_plain()
    load_rules(settings)
    return lacking()


class RuleCompiler:
    """Has the rules of a session compiled, and gives them to its core.

    Args:
        system: the session.
    """

    def __init__(self, system: LiveTradingSystem) -> None:
        self._system, self._core = system, system.core
        self.has_own = asyncio.Event()
        """Set once a rule file's rule is compiled, or can't be: no trade may be given to the core before."""

    async def run(self) -> None:
        """Take the rules that the cache has, have the others compiled, and take them between two events.

        A failure is told once; the rules stay plain Python then, which does the same, slower.
        """
        await self._take_own()
        if not self._core.is_plain:
            return
        log.warning("rules run as plain Python, since the cache lacks them; another process compiles them")
        told = ""
        for pause_s in (*PAUSES_S, 0.0):
            wrong = await self._try()
            if not wrong:
                log.warning("rules are compiled now")
                return
            log.warning("rules could not be compiled: %s", wrong)
            if not told:
                told = f"{wrong}; rules run as plain Python, which does the same, slower"
                self._tell(told)
            await asyncio.sleep(pause_s)

    def _tell(self, text: str) -> None:
        self._system.on_event(Trouble(self._system.now, FAILED, text))

    async def _take_own(self) -> None:
        """Compile a rule file's rule here in another thread, since no other process has that file; take what there is.

        The loop goes on beside, a little slower.
        """
        self._core.take_rules()
        for each in self._core.symbol_states.values():
            if each.pipeline.has_plain_own_rule:
                log.warning("the rule file's rule is compiled; until then no bar is decided on")
                await self._compile_own(each.engine)
                was_off = each.pipeline.rule_off
                self._core.take_rules()
                if each.pipeline.rule_off != was_off:
                    self._tell(f"compiled, the rule fails where as plain Python it did not: {each.pipeline.rule_off}")
        self.has_own.set()

    async def _compile_own(self, engine: SignalEngine) -> None:
        """Compile a rule file's rule; after a failure, such as of a full disk, it is told once and tried again."""
        for tries in itertools.count():
            try:
                return await own_in_thread(engine)
            except Exception as error:  # whatever it is, no session must end for it
                wrong = f"{type(error).__name__}: {error}"
            log.warning("the rule file's rule could not be compiled: %s", wrong)
            if tries == 0:
                self._tell(f"{wrong}; without the rule file's rule no bar is decided on, and nothing is entered")
            await asyncio.sleep(OWN_PAUSES_S[min(tries, len(OWN_PAUSES_S) - 1)])

    async def _try(self) -> str:
        """Compile in another process, load here in another thread, and take; return what went wrong."""
        if not is_kept():
            return f"{cache_home()}: must be a folder that can be written (VOLTRADE_CACHE)"
        settings = self._core.config.signals
        try:
            wrong = await compile_beside(settings)
            if left := await in_thread(settings):
                return wrong or f"the cache still lacks {', '.join(sorted(left))}"
        except Exception as error:  # whatever it is, no session must end for it
            return f"{type(error).__name__}: {error}"
        self._core.take_rules()
        return ""


async def in_thread(settings: SignalSettings) -> frozenset[str]:
    """Return what `find_lacking` does in another thread, beside the loop."""
    return await asyncio.to_thread(find_lacking, settings)


async def own_in_thread(engine: SignalEngine) -> None:
    """Compile a rule file's rule in another thread, beside the loop."""
    await asyncio.to_thread(compile_own, engine)


async def compile_beside(settings: SignalSettings) -> str:
    """Fill the cache in another process, which ends with this one; return what went wrong, empty for nothing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __spec__.name), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdin is not None
    try:
        process.stdin.write(_shared(settings).model_dump_json().encode() + b"\n")
        code = await asyncio.wait_for(process.wait(), WITHIN_S)
    except TimeoutError:
        return f"it took longer than {WITHIN_S:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        await process.wait()
    return f"its process ended with {code}" if code else ""


def _shared(settings: SignalSettings) -> SignalSettings:
    """Return settings of the built-in rule; a rule file's are of a type that the other process doesn't know."""
    return settings if type(settings) is SignalSettings else SignalSettings()


# --- the other process ------------------------------------------------------------------------------------------------


def main() -> int:
    """Compile the rules for the settings in the first line of the input; return the exit status."""
    os.nice(NICENESS)
    settings = SignalSettings.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_engine, daemon=True).start()
    with (cache_home() / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        load_rules(settings)
    return 0


def _end_with_engine() -> None:
    os.read(sys.stdin.fileno(), 1)  # a buffered read would keep Python from its end
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
