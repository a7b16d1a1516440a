"""The order of events where the tape is the clock.

A backtest and a `sim` session in lockstep run the same generator. It passes events to the core, and yields requests to
its driver: for the next segment of the tape, for the exchange to process it, for the execution of a command, for the
exchange's events. The backtest's driver answers in process, the engine's over REST and websockets; since both answer
the same requests, the core gets the same events and sends the same commands.

The order: the core gets trades up to the first on which something depends (a command of ours, an order's arrival, fill
or trigger, a mark price, a due timer). Then the exchange processes them. Our commands are executed one by one, and the
core handles each answer at once, then the updates of its orders. Then the next trades follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from voltrade.core import TradingCore
from voltrade.model import (
    Answer,
    Command,
    EngineRestarted,
    Event,
    History,
    Note,
    Output,
    Segment,
    StreamStatus,
    Timer,
    UserDataEvent,
)


@dataclass(frozen=True, slots=True)
class NextSegment:
    """Request for the next `Segment`."""


@dataclass(frozen=True, slots=True)
class AdvanceExchange:
    """Request that the exchange process what the core has handled, and set its clock. The answer isn't used."""

    trades: int
    """How many trades since the last `AdvanceExchange`."""
    trade_id: int
    """Id of the last trade that the core has handled, -1 before the first."""
    mark: bool
    """Whether the core has handled the segment's mark price too."""
    marks: int
    """How many mark prices the core has handled in all."""
    time: int


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Request to execute a command; see `model.Answer`."""

    command: Command


@dataclass(frozen=True, slots=True)
class DrainEvents:
    """Request for the events since the last such request, the exchange's and the operator's. The answer is a list in
    order."""


@dataclass(frozen=True, slots=True)
class EndOfTape:
    """Request to end the tape at the exchange: orders in flight arrive."""


Request = NextSegment | AdvanceExchange | SendCommand | DrainEvents | EndOfTape
Handle = Callable[[Event], tuple[int, list[Output]]]


def commands_of(outputs: Iterable[Output]) -> list[Command]:
    """Return the outputs that are commands to the exchange."""
    return [output for output in outputs if not isinstance(output, Note)]


def warm_up(handle: Handle, history: History) -> None:
    """Pass the trades from before a session to its core, which can't act on them: it has no account yet."""
    if history.resume_point is not None:
        handle(history.resume_point)
    trades = history.trades
    while len(trades):
        consumed, _ = handle(trades)
        trades = trades[consumed:]


class TapeLoop:
    """Runs a core over a tape.

    Args:
        core: asked when a timer is due, and whether the session has ended.
        handle: `core.handle`, or a function that calls it and writes a journal; it gets every event.
        start: venue time at which the session begins, ms.
        marks: how many mark prices the exchange has processed already.
        restarted: whether the core was restored from the journal of an engine that was killed.
    """

    def __init__(
        self, core: TradingCore, handle: Handle, start: int, *, marks: int = 0, restarted: bool = False
    ) -> None:
        self._core = core
        self._handle = handle
        self._time = start
        self._restarted = restarted
        self._trade_id = core.last_trade_id
        self._marks = marks
        self._unplayed = 0

    def run(self) -> Generator[Request, Any, None]:
        """Yield requests until the session has ended; each is answered by `send`."""
        if self._restarted:
            yield from self._drain(self._handle_event(EngineRestarted(self._time)))
        yield from self._drain(self._handle_event(StreamStatus(self._time, "user", True)))
        ended = False
        while not (ended or self._core.finished):
            segment: Segment = yield NextSegment()
            whole = yield from self._run_segment(segment)
            ended = segment.end and whole
        yield from self._end()

    def _run_segment(self, segment: Segment) -> Generator[Request, Any, bool]:
        """Pass a segment to the core; return False if a command or timer has ended it: the exchange may act sooner."""
        trades, seen = segment.trades, 0
        while seen < len(trades):
            if (yield from self._fire_due(int(trades.time[seen]))):
                return False
            consumed, outputs = self._handle(trades[seen:])
            seen += consumed
            self._unplayed += consumed
            if consumed:
                self._trade_id = int(trades.id[seen - 1])
                self._time = max(self._time, int(trades.time[seen - 1]))
            if commands_of(outputs):
                yield from self._play()
                yield from self._drain(outputs)
                return seen == len(trades) and segment.mark is None and segment.arrival is None
        outputs = []
        if segment.arrival is not None:
            if (yield from self._fire_due(segment.arrival)):
                return False
            self._time = max(self._time, segment.arrival)
        if segment.mark is not None:
            if (yield from self._fire_due(segment.mark.time)):
                return False
            self._marks += 1
            self._time = max(self._time, segment.mark.time)
            outputs = self._handle_event(segment.mark)
        yield from self._play(mark=segment.mark is not None)
        yield from self._drain(outputs)
        return True

    def _fire_due(self, before: int) -> Generator[Request, Any, bool]:
        """Pass timers due at or before a time to the core; return whether one led to a command or ended the session."""
        while (due := self._core.next_due) <= before:
            self._time = max(self._time, due)
            outputs = self._handle_event(Timer(self._time))
            if commands_of(outputs) or self._core.finished:
                yield from self._play()
                yield from self._drain(outputs)
                return True
        return False

    def _drain(self, outputs: list[Output]) -> Generator[Request, Any, None]:
        """Execute commands and handle the exchange's events, until neither brings anything new."""
        pending = deque(commands_of(outputs))
        while True:
            while pending:
                answer: Answer = yield SendCommand(pending.popleft())
                pending.extend(commands_of(self._handle_event(answer)))
            events: list[UserDataEvent] = yield DrainEvents()
            if not events:
                return
            for event in events:
                pending.extend(commands_of(self._handle_event(event)))

    def _play(self, mark: bool = False) -> Generator[Request, Any, None]:
        yield AdvanceExchange(self._unplayed, self._trade_id, mark, self._marks, self._time)
        self._unplayed = 0

    def _end(self) -> Generator[Request, Any, None]:
        """End the session by `on_duration_end` if the tape has ended before it; then end the tape at the exchange."""
        if not self._core.finished:
            yield from self._drain(self._handle_event(self._core.end_of_tape(self._time)))
        yield EndOfTape()
        yield from self._drain([])

    def _handle_event(self, event: Event) -> list[Output]:
        consumed, outputs = self._handle(event)
        assert consumed == 1, "only blocks of trades are handled in parts"
        return outputs
