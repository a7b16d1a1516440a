"""A backtest: the same decisions as a lockstep `sim` session over the same tape.

There are two paths with equal results. The compiled path (`loop`) runs a whole session in one loop. The other runs the
core itself, event by event, against the simulated exchange in process; it is used where the compiled path doesn't
support what happens. The result states the path and the reason.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voltrade.compiled import Rows
from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.data.coverage import Coverage
from voltrade.data.tape import Tape
from voltrade.errors import DataError
from voltrade.model import Event, History, Instrument, Output, Refusal, RoundTrip, Trades
from voltrade.report.framed import Framed
from voltrade.research.compiled_session import Tables
from voltrade.research.loop_facts import facts_of
from voltrade.research.prepared_tape import Research, Span
from voltrade.research.rests_on import extrapolated_text, made_from, rests_on
from voltrade.signal_engine import SignalEngine
from voltrade.simulated.core_commands import drain_events, execute
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.fill_model import MOST_EXTRAPOLATED
from voltrade.simulated.tape_playback import TapePlayer, simulate, steps_until
from voltrade.strategy.check import refuse_impure
from voltrade.strategy.rule_file import load_rule, signal_engine_of
from voltrade.tape_loop import (
    AdvanceExchange,
    DrainEvents,
    EndOfTape,
    NextSegment,
    Request,
    SendCommand,
    TapeLoop,
    warm_up,
)

if TYPE_CHECKING:  # pandas and plotly are imported only when they are needed: that takes a second
    import pandas as pd

    from voltrade.report.frames import Frames
    from voltrade.report.judgement import Judgement
    from voltrade.report.statistics import Statistics
    from voltrade.research.searches import CountingLater, Searches

Path = Literal["auto", "compiled", "events"]


class Backtest(Framed):
    """The result of a backtest, displayed as tables in a notebook; frames and statistics are computed when needed.

    Attributes:
        bars: closed bars, rows of `model.BAR`; those before `first_bar` are the warm-up.
        bar_decisions: the decision of each bar, rows of the engine's `decision_dtype`.
        path: `compiled` or `events`.
        why: why it ran event by event; empty for the compiled path.
        extrapolated: the part of the notional of all fills that no trade of the tape gave; see `fill_model`.
        rule: class of the rule, where it is known.
        config: the settings, with those of the engine that was given.
    """

    def __init__(
        self,
        config: Config,
        tape: Tape,
        instrument: Instrument,
        bars: Rows,
        bar_decisions: Rows,
        first_bar: int,
        result: Tables | list[Event | Output],
        *,
        extrapolated: float,
        epoch: str = "bt",
        why: str = "",
        rows: tuple[int, int] | None = None,
        rule: type[SignalEngine] | None = None,
        state: bytes = b"",
    ) -> None:
        self.config = config
        self.instrument = instrument
        self.tape = tape
        self.bars = bars
        self.bar_decisions = bar_decisions
        self.first_bar = first_bar
        self.path = "compiled" if isinstance(result, Tables) else "events"
        self.why = why
        self.extrapolated = extrapolated
        self.rule = rule
        self._result = result
        self._state = state
        self._epoch = epoch
        self._rows = rows or (0, len(tape.trades))

    # --- what happened, as facts -------------------------------------------------------------------------------------

    @cached_property
    def facts(self) -> list[Event | Output]:
        """What happened, by time: intents, answers, fills and notes on the compiled path; every event and output but
        trades on the other."""
        if isinstance(self._result, Tables):
            return facts_of(self._result, self.config, self.instrument, self._epoch)
        return self._result

    @property
    def trips(self) -> list[RoundTrip]:
        """The closed round trips, as facts."""
        return [fact for fact in self.facts if isinstance(fact, RoundTrip)]

    # --- what happened, as frames ------------------------------------------------------------------------------------

    def frames(self) -> Frames:
        """Everything that happened, as pandas frames."""
        return self._frames

    @cached_property
    def _frames(self) -> Frames:
        return self._made_frames().marked(self.warning)

    def _made_frames(self) -> Frames:
        from voltrade.report.collector import frames_of_arrays
        from voltrade.research.loop_frames import frames_of_tables

        if isinstance(self._result, Tables):
            return frames_of_tables(self._result, self.instrument, self.bars, self.bar_decisions, self._epoch)
        facts = [fact for fact in self.facts if not isinstance(fact, Refusal) or fact.bar_number >= self.first_bar]
        return frames_of_arrays(self.instrument, self.bars, self.bar_decisions, self.first_bar, facts)

    def _frame(self, name: str) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self._frames, name)
        return frame

    @cached_property
    def statistics(self) -> Statistics:
        """Figures on calendar time (365 days, UTC)."""
        from voltrade.report.statistics import statistics

        return statistics(self._frames)

    @property
    def judgement(self) -> Judgement:
        """Whether the result is better than luck, as one of all settings that were tried on the market until now.

        Reading it puts the backtest into the search log (`searches`).
        """
        return self._counting.judgement

    @cached_property
    def _counting(self) -> CountingLater:
        from voltrade.report.bootstrap import luck_of
        from voltrade.report.judgement import columns_of, judge
        from voltrade.report.statistics import returns
        from voltrade.research.searches import CountingLater, TradedTime, keep, settings_hash

        found, times = returns(self._frames), self.tape.trades.time[slice(*self._rows)]
        luck = luck_of(columns_of([found], found))
        traded = TradedTime.of(self.tape, int(times[0]), int(times[-1]))
        tried = [settings_hash(self.config, self.rule, self._state)]
        known: dict[str, Any] = {"missing": self.coverage.missing, "entries": self._entries}
        searches = keep("settings", traded, [], tried, found.annual_sharpe, luck.luckiest, **known)
        trips = len(self._frames.round_trips)
        known = {"fall": self.statistics.max_drawdown, "at_risk": self.statistics.largest_r}

        def judged(searches: Searches) -> Judgement:
            of_all = judge([found], trips, luck=luck, others=searches.luckiest, in_all=searches.trials, **known)
            return replace(of_all, warning=self.warning)

        return CountingLater(searches, judged)

    @property
    def _entries(self) -> list[int]:
        """When positions were entered, ms UTC."""
        from voltrade.report.frames import to_milliseconds

        return [int(time) for time in to_milliseconds(self._frames.round_trips["opened"])]

    # --- what it rests on ---------------------------------------------------------------------------------------------

    @cached_property
    def coverage(self) -> Coverage:
        """What the traded part of the tape has and lacks."""
        return Coverage.of(self.tape, *self._rows)

    @property
    def warning(self) -> str:
        """What the result is marked with: that too much of its tape is missing; empty where it isn't."""
        return self.coverage.warning

    @cached_property
    def _made_from(self) -> str:
        return made_from(self.tape, [self.config.session.rule])

    # --- shown in a notebook -----------------------------------------------------------------------------------------

    def price_chart(self, last_bars: int = 5_000, around: int | None = None) -> Any:
        """Draw bars, indicators, signals, entries, exits and stops as a plotly figure; see `charts.price_chart`."""
        from voltrade.report.charts import price_chart

        return price_chart(self._frames, self.config, last_bars, around)

    def equity_chart(self) -> Any:
        """Draw equity and drawdown as a plotly figure."""
        from voltrade.report.charts import equity_chart

        return equity_chart(self._frames, self.config)

    def notes(self) -> list[str]:
        """Return what must be known to read the figures: their sources and assumptions."""
        tainted = int(np.count_nonzero(self.bars["tainted"][self.first_bar :]))
        how = "in one compiled loop, which gives what event by event gives" if not self.why else "event by event"
        return [
            *rests_on(self.config, self.tape, self.instrument, self.coverage, tainted),
            extrapolated_text(self.extrapolated),
            f"path: {how}{f', since {self.why}' if self.why else ''}",
            self._made_from,
        ]

    def __repr__(self) -> str:
        thin = f"; {extrapolated_text(self.extrapolated)}" if self.extrapolated > MOST_EXTRAPOLATED else ""
        mark = f". {self.warning}" if self.warning else ""
        head = f"Backtest of {self.tape.source}: {len(self.round_trips)} round trips, {self.path} path"
        return f"<{head}; {self.coverage.text}{thin}{mark}>"

    def _repr_html_(self) -> str:
        from voltrade.report.chart_style import title_of
        from voltrade.report.html import warning_html
        from voltrade.report.summary import refusals_by_code

        title = title_of(self._frames, self.config)
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.notes())
        tables = self.statistics.table().to_html(), refusals_by_code(self._frames).to_html()
        cells = "".join(f"<td style='vertical-align:top;padding-right:2em'>{table}</td>" for table in tables)
        return f"<h4>{escape(title)}</h4>{warning_html(self.warning)}<table><tr>{cells}</tr></table><ul>{lines}</ul>"


def backtest(
    tape: Tape | Research,
    config: Config,
    engine: SignalEngine | None = None,
    *,
    begin_s: float | None = None,
    end_s: float | None = None,
    path: Path = "auto",
    epoch: str = "bt",
    block: int | None = None,
    history: History | None = None,
) -> Backtest:
    """Trade a tape with these settings.

    Args:
        tape: trades of `config.session.symbol`. A `Research` keeps bars, decisions and mark prices for the next
            backtest with the same settings.
        engine: an engine, which continues from its state and has the state at the backtest's end afterwards; by default
            a new one of `config.session.rule`.
        begin_s: begin of trading in seconds after the tape's first trade, after a warm-up; by default
            `config.session.begin_s`.
        end_s: end of the tape, in seconds after its first trade.
        path: `auto` uses the compiled path where it can; `events` runs the core event by event; `compiled` raises an
            error where it can't.
        epoch: part of the client order ids.
        block: for `events`: most trades that the core is given at once; the result doesn't depend on it.
        history: for `events`: history before the tape, as a session that begins within a day has it; the core doesn't
            trade on it.

    Raises:
        ConfigError: the settings are impossible under the symbol's filters, the rule file is broken, the rule knows or
            keeps more than it declares (`refuse_impure`), or `begin_s` or `end_s` isn't finite.
        DataError: the tape is empty, goes back in time, or has no trade between `begin_s` and `end_s`; or the compiled
            path was required and can't be used.
    """
    research = tape if isinstance(tape, Research) else Research(tape)
    instrument = research.instrument
    research.check(config)
    rule = type(engine) if engine else load_rule(config.session.rule)
    refuse_impure(rule, engine.settings if engine else config.signals.converted_to(rule.settings_type))
    if engine and engine.settings != config.signals:  # a result says, and counts as, what was traded
        config = config.model_copy(update={"signals": engine.settings})
    state = engine.state_bytes() if engine and engine.bars else b""
    span = research.span(config.session.begin_s if begin_s is None else begin_s, end_s)
    why = "it was asked for" if path == "events" else "it has a history from before its tape" if history else ""
    if engine and engine.is_overridden:
        why = why or f"{type(engine).__name__} overrides on_volume_bar, and may keep what no saved state holds"
    if not why:
        before = engine.state_bytes() if engine else b""
        bar_decisions = research.decisions(config, engine, span.last)
        tables, why = research.run(config, bar_decisions, span)
        if tables is not None:
            closed = tables.bars
            bars = research.bars(config.bars).rows[:closed]
            if engine and closed < len(bar_decisions):  # the session ended before the tape
                engine.restore(before)
                engine.on_volume_bars(bars)
            return Backtest(
                *(config, research.tape, instrument, bars, bar_decisions[:closed], tables.first_bar, tables),
                extrapolated=tables.extrapolated,
                epoch=epoch,
                rule=rule,
                rows=(span.first, span.last),
                state=state,
            )
        if engine:
            engine.restore(before)
    if path == "compiled":
        raise DataError(f"path: must be auto or events here: {why}")
    engine = engine or signal_engine_of(config, instrument)
    return _event_by_event(research.tape, config, engine, span, history, epoch, block, why, state)


# --- event by event --------------------------------------------------------------------------------------------------


def _event_by_event(
    tape: Tape,
    config: Config,
    engine: SignalEngine,
    span: Span,
    history: History | None,
    epoch: str,
    block: int | None,
    why: str,
    state: bytes,
) -> Backtest:
    """Run the core over the tape, against the simulated exchange in process."""
    trades = tape.trades[: span.last]
    core = TradingCore(config, engine.instrument, epoch, engine)
    exchange, player = simulate(config, trades, marks=tape.marks, funding=tape.funding, batch=block)
    (symbol_state,) = core.symbol_states.values()
    facts: list[Event | Output] = []

    def handle(event: Event) -> tuple[int, list[Output]]:
        if not isinstance(event, Trades):
            facts.append(event)
        consumed, outputs = core.handle(event)
        if symbol_state.pipeline.rule_error is not None:  # a session goes on without its rule; research is about it
            raise symbol_state.pipeline.rule_error
        facts.extend(outputs)
        return consumed, outputs

    if history is not None:
        warm_up(handle, history)
    warm_up(handle, History(trades[: span.first]))
    first_bar = (
        0 if history else symbol_state.pipeline.count
    )  # a run shows the bars of its history, and so does its backtest
    for _ in steps_until([player], span.start):  # what lies before, the exchange has seen
        pass
    exchange.advance(span.start)
    run = TapeLoop(core, handle, exchange.clock, marks=player.marks_played).run()
    answer: Any = None
    try:
        while True:
            answer = _answer(run.send(answer), exchange, player)
    except StopIteration:
        bars, bar_decisions = symbol_state.pipeline.bars, symbol_state.pipeline.decisions
        return Backtest(
            *(config, tape, engine.instrument, bars, bar_decisions, first_bar, facts),
            extrapolated=player.market.extrapolated / max(1, player.market.taken),
            epoch=epoch,
            why=why,
            rule=type(engine),
            rows=(span.first, span.last),
            state=state,
        )


def _answer(ask: Request, exchange: SimulatedExchange, player: TapePlayer) -> Any:
    match ask:
        case NextSegment():
            return player.horizon()
        case AdvanceExchange():
            player.play(ask.trades, ask.mark, ask.time)
        case SendCommand(command=command):
            return execute(exchange, command)
        case DrainEvents():
            return drain_events(exchange)
        case EndOfTape():
            player.finish()
    return None
