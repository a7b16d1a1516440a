"""What became of signals: each has its entry at the venue, or a refusal that the venue's log, the bars or the settings
bear out. What is neither was due, and counts against the session (O12, O13).

A refusal is borne out by what is outside of the engine: a position or an order that was open at the venue, bars since
an exit, the distance of a stop by the settings, money that was lost. What the engine says of itself (`NOT_RECONCILED`,
`LINK_DOWN`, `UNKNOWN_ORDER`) is borne out by nothing but a request on its way, a start, or an account that differs;
and look-ups of one order for a minute only.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from simulation.evidence import Json
from simulation.reading import COMPARED_MS, DAY_MS, OPEN, OURS, SETTLED_MS, ZERO, Reading, whose

TRADING_RULES = ("DAILY_LOSS", "DRAWDOWN", "LOSING_STREAK", "TRADES_PER_DAY")
"""Breaker rules that trip by trading; any other halt comes from a fault or a person."""
NEWS_MS = 2_000
"""So long after the venue did something an engine may not know of it yet."""
STARTS_MS = 10_000
"""So long after its begin an engine has not read its account yet."""
CALM_MS = 60_000
"""So long after the last fault that was felt each signal is due, whatever the plan."""
FAULT_LASTS_MS = 10_000
"""Under faults that can be recovered from, so long after each."""
WARM_UP_BARS = {"ema_slow": 12, "rsi_length": 24, "atr_length": 24, "bollinger_length": 2, "vwap_length": 2}
"""Bars after which an indicator has warmed up, for each bar of its length: Wilder's means forget half as fast."""
SENDS_MS = 250
"""So long after it was intended an order leaves; halts are held to the same."""
APART_MS = 1_000
"""Entries are this far apart at least."""
NEAR = Decimal("0.95")
"""Of a limit on losses: equity is valued at other moments than the judge's."""
AGED_MS = 10_000
"""How old the last price may be at an entry."""
VALUED_MS = 15_000
"""How old the price may be at which a loss was seen."""
CHANGING = ("filters", "brackets")
"""Strikes after which sizes are other ones."""
LASTING = ("stick_triggers",)
"""Strikes that last to the end, and are felt where the venue's log says so."""
NO_WORD = "NO_WORD"
"""Stands for the refusal of a signal of which the journal says nothing."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A bar's signal, and what the journal says became of it."""

    time: int
    journal: int
    bar: Json
    code: str
    """Of its refusal; empty where an entry was intended."""
    client_id: str
    """Of its entry."""


Halt = tuple[str, int, int]
"""Why no entry may be sent, since when, and until when; -1 where it stands."""


def signals(reading: Reading) -> list[Signal]:
    """Return the signals of bars that closed after the opening, in their order."""
    kept = vars(reading)
    if "_signals" not in kept:
        kept["_signals"] = sorted(_signals(reading), key=lambda each: each.time)
    found: list[Signal] = kept["_signals"]
    return found


def _signals(reading: Reading) -> Iterator[Signal]:
    entered = [(number, row.body) for number, row in reading.of_kind("OrderIntent") if row.body["purpose"] == "e"]
    names = {(number, body["bar_number"]): body["order"]["client_order_id"] for number, body in entered}
    codes = {(number, row.body["bar_number"]): row for number, row in reading.of_kind("Refusal")}
    opened = _openings(reading)
    for number, row in reading.of_kind("Bar"):
        key = number, row.body["index"]
        refusal = codes.pop(key, None)
        if row.body["decision"].get("signal") and row.time >= opened[number]:
            code = refusal.body["code"] if refusal else "" if key in names else NO_WORD
            yield Signal(row.time, number, row.body, code, names.get(key, ""))
    for (number, _), refusal in codes.items():  # of no bar that is known
        if refusal.body["time"] >= opened[number]:
            yield Signal(refusal.body["time"], number, {}, refusal.body["code"], "")


def _openings(reading: Reading) -> dict[int, int]:
    """Return since when each run could enter: it also has the bars of trades that it loaded from before its begin."""
    evidence = reading.evidence
    found = dict.fromkeys(range(len(evidence.journals)), evidence.opened)
    for life in reversed(evidence.lives):
        found[life.run] = max(life.begin, evidence.opened)
    return found


# --- which were due ---------------------------------------------------------------------------------------------------


def expected(reading: Reading, halts: Sequence[Halt]) -> tuple[int, int]:
    """Return how many entries were due outside of faults and the 10 s after, and how many of these the venue got.

    One that was intended and had not left when the operator stopped it, or the engine died, within 250 ms is not due.
    While a breaker halts, no position keeps a signal from being due; so due is then no more than what the session
    without faults entered meanwhile, where that is known.
    """
    due = [each for each in signals(reading) if not _is_near_fault(reading, each.time)]
    told = [halt for halt in halts if halt[0] == "operator"]
    sent = [each for each in due if each.client_id and reading.reached(each.client_id)]
    missed = [each for each in due if each not in sent and not is_borne_out(reading, told, each)]
    missed = [each for each in missed if not _is_kept_back(reading, told, each)]
    breaker = [halt for halt in halts if halt[0] == "breaker"]
    halted = sum(each.code == "ON_HOLD" and _is_halted(breaker, each.time) for each in missed)
    lost = _entered_without_faults(reading, breaker)
    return len(sent) + len(missed) - halted + (halted if lost is None else min(halted, lost)), len(sent)


def _is_near_fault(reading: Reading, time: int) -> bool:
    return is_felt(reading, time - FAULT_LASTS_MS, time)


def _entered_without_faults(reading: Reading, halts: Sequence[Halt]) -> int | None:
    """How many entries the session without faults sent during halts, near faults left out; None where unknown."""
    times = reading.evidence.clean_entries
    if times is None:
        return None
    return sum(_is_halted(halts, time) and not _is_near_fault(reading, time) for time in times)


def missed(reading: Reading, halts: Sequence[Halt]) -> list[Signal]:
    """Return the signals that gave no entry though nothing was in the way for a minute: no fault that was felt, no halt
    that stands in the journal, no account that differs, and nothing that bears out why.

    An entry that was intended must have left, unless a halt came, or the engine's end, before it could."""
    found = []
    for each in signals(reading):
        if each.client_id in reading.posts or is_felt(reading, each.time - CALM_MS, each.time):
            continue
        if _is_halted(halts, each.time) or _is_kept_back(reading, halts, each):
            continue
        if not is_borne_out(reading, halts, each):
            found.append(each)
    return found


def is_felt(reading: Reading, begin: int, end: int) -> bool:
    """Whether a fault was felt in a stretch, or no engine lived; see `felt`."""
    return any(since <= end and until >= begin for since, until in felt(reading))


def felt(reading: Reading) -> list[tuple[int, int]]:
    """When faults were felt, and no engine lived; one that lasts to the end is felt at the moments that it strikes."""
    kept = vars(reading)
    if "_felt_by_signals" not in kept:
        evidence = reading.evidence
        lasting = {(each.begin, each.until) for each in evidence.strikes if each.kind in LASTING}
        lives = evidence.lives
        dead = [(one.end, other.begin) for one, other in pairwise(lives)]
        kept["_felt_by_signals"] = [
            (begin, begin if (begin, until) in lasting else until) for begin, until in [*reading.felt, *dead]
        ]
    found: list[tuple[int, int]] = kept["_felt_by_signals"]
    return found


def _is_halted(halts: Sequence[Halt], time: int, within: int = NEWS_MS) -> bool:
    return any(begin <= time and (end < 0 or time <= end + within) for _, begin, end in halts)


def _is_kept_back(reading: Reading, halts: Sequence[Halt], signal: Signal) -> bool:
    """Whether an entry that was intended was halted, or its engine ended, before it left."""
    if not signal.client_id or signal.client_id in reading.posts:
        return False
    time, ends = signal.time, [life.end for life in reading.evidence.lives]
    return _is_halted(halts, time + SENDS_MS) or any(time <= end <= time + SENDS_MS for end in ends)


# --- what bears out a refusal -----------------------------------------------------------------------------------------


def is_borne_out(reading: Reading, halts: Sequence[Halt], signal: Signal) -> bool:
    """Whether something outside of the engine says that a signal could give no entry."""
    check = CHECKS.get(signal.code)
    if signal.code in ("PAUSED", "ON_HOLD") and _is_halted(halts, signal.time):
        return True
    return check is not None and check(reading, signal)


def _is_warming_up(reading: Reading, signal: Signal) -> bool:
    bars = max(each * int(reading.evidence.settings.get(name, 1)) for name, each in WARM_UP_BARS.items())
    return bool(signal.bar) and signal.bar["index"] < bars


def _is_not_last(reading: Reading, signal: Signal) -> bool:
    """Whether the trade that closed the bar closed the next one too."""
    later = reading.bars[signal.journal].get(signal.bar["index"] + 1) if signal.bar else None
    return later is not None and later["last_trade_id"] == signal.bar["last_trade_id"]


def _is_tainted(reading: Reading, signal: Signal) -> bool:
    return bool(signal.bar) and bool(signal.bar["tainted"])


def _is_day_end(reading: Reading, signal: Signal) -> bool:
    return bool(signal.bar) and signal.bar["close_reason"] == 2


def _is_over(reading: Reading, signal: Signal) -> bool:
    """Whether the session's time is over."""
    evidence = reading.evidence
    lasts_ms = int(1000 * evidence.settings.get("duration_s", 0.0))
    return bool(lasts_ms) and signal.time >= evidence.opened + lasts_ms - NEWS_MS


def _is_unread(reading: Reading, signal: Signal) -> bool:
    """Whether the engine has just begun, or the account was not ours alone, or not as it must be."""
    begins = any(0 <= signal.time - life.begin <= STARTS_MS for life in reading.evidence.lives)
    return begins or differs(reading, signal.time)


def _is_on_its_way(reading: Reading, signal: Signal) -> bool:
    """Whether a request for an order is on its way, or its answer is about to be taken in.

    A question after an order is one only for a minute after the request to place or cancel it: by then its outcome is
    known.
    """
    recent = [each for each in reading.evidence.requests if each.client_id and each.sent >= signal.time - COMPARED_MS]
    acted = {each.client_id for each in recent if each.method != "GET"}
    return any(
        each.sent <= signal.time + SENDS_MS and (each.answered < 0 or signal.time <= each.answered + NEWS_MS)
        for each in recent
        if each.client_id in acted
    )


def _is_open(reading: Reading, signal: Signal) -> bool:
    """Whether a position or an order of ours was open at the venue, or an entry on its way, in the last 2 s.

    An order that protects counts without a position for 10 s only: by then it is cancelled.
    """
    moments, since = reading.moments, signal.time - NEWS_MS
    first = max(bisect.bisect_right(moments, since, key=lambda moment: moment.time) - 1, 0)
    last = bisect.bisect_right(moments, signal.time, key=lambda moment: moment.time)
    idle = sum(begin + SETTLED_MS < signal.time <= end for _, begin, end in reading.left)
    return any(each.ours or each.open > idle for each in moments[first:last]) or _is_on_its_way(reading, signal)


def _is_cooling(reading: Reading, signal: Signal) -> bool:
    """Whether too few bars have closed since news of the last exit, or the last entry left a second ago."""
    posts = [post.sent for name, post in reading.posts.items() if name in reading.intents and "e" in name[-3:]]
    if any(-SENDS_MS <= signal.time - sent < APART_MS for sent in posts):
        return True
    exits = [fill.time for fill in reading.fills if not fill.held and fill.time <= signal.time]
    if not exits or not signal.bar:
        return False
    settings, index = reading.evidence.settings, signal.bar["index"]
    bars = reading.bars[signal.journal]
    closed = sum(bars[each]["close_time"] >= exits[-1] + NEWS_MS for each in bars if each <= index)
    resting = signal.time < exits[-1] + NEWS_MS + 1000 * settings.get("cooldown_s", 0.0)
    return bool(closed <= settings.get("cooldown_bars", 0) or resting)


def _stop_distance(reading: Reading, signal: Signal) -> tuple[Decimal, Decimal]:
    """Distance of the stop by the settings, and the price of the bar."""
    tick = reading.units[reading.symbol][0]
    price, atr = signal.bar["close"] * tick, Decimal(str(signal.bar["decision"]["atr"]))
    return atr * Decimal(str(reading.evidence.settings.get("stop_atr", 2))), price


def _is_tight(reading: Reading, signal: Signal) -> bool:
    """Whether the stop is nearer than its shortest distance: in bps, of three ticks, of twice what a trade costs."""
    if not signal.bar:
        return False
    (distance, price), settings = _stop_distance(reading, signal), reading.evidence.settings
    tick = reading.units[reading.symbol][0]
    costs = Decimal(str(settings.get("taker_fee", 0))) + Decimal(str(settings.get("slippage_bps", 0))) / 10_000
    least = max(price * Decimal(str(settings.get("min_stop_bps", 0))) / 10_000, 3 * tick, 4 * price * costs)
    return distance < least + 2 * tick


def _is_far(reading: Reading, signal: Signal) -> bool:
    """Whether liquidation is nearer than twice the stop, with a maintenance margin of 2.5 %."""
    if not signal.bar:
        return False
    (distance, price), leverage = _stop_distance(reading, signal), reading.evidence.settings.get("leverage", 1)
    tick = reading.units[reading.symbol][0]
    return 2 * (distance + 2 * tick) > price * (1 / Decimal(leverage) - Decimal("0.025"))


def _is_stale(reading: Reading, signal: Signal) -> bool:
    """Whether the bar closed near a fault, and was made up for so late that its price is none any more."""
    if not signal.bar:
        return False
    closed: int = signal.bar["close_time"]
    return signal.time - closed > AGED_MS and _is_near_fault(reading, closed)


def _is_off_mark(reading: Reading, signal: Signal) -> bool:
    """Whether the tape moved by half of the allowed distance in the last minute: the mark follows it."""
    prices = [Decimal(price) for _, price, _, time, _ in reading.evidence.tape if 0 <= signal.time - time < COMPARED_MS]
    most = Decimal(str(reading.evidence.settings.get("max_mark_gap_bps", 50))) / 10_000
    return bool(prices) and max(prices) - min(prices) > min(prices) * most / 2


def _is_changed(reading: Reading, signal: Signal) -> bool:
    return any(each.kind in CHANGING and each.begin <= signal.time for each in reading.evidence.strikes)


def _is_not_trading(reading: Reading, signal: Signal) -> bool:
    """Whether the symbol was not trading within the time that it takes until its filters are read again."""
    halted = [each for each in reading.evidence.strikes if each.kind == "status"]
    return any(each.begin <= signal.time <= each.until + COMPARED_MS + NEWS_MS for each in halted)


def _is_spent(reading: Reading, signal: Signal) -> bool:
    """Whether the next stop-out could pass the day's loss."""
    settings, capital = reading.evidence.settings, Decimal(str(reading.evidence.settings.get("capital", 0)))
    limit, risk = (Decimal(str(settings.get(name, 1))) for name in ("max_daily_loss_fraction", "risk_fraction"))
    return lost_today(reading, signal.time) >= (limit - 2 * risk) * capital


CHECKS: dict[str, Callable[[Reading, Signal], bool]] = {
    "WARMING_UP": _is_warming_up,
    "NOT_LAST_BAR": _is_not_last,
    "BAR_TAINTED": _is_tainted,
    "DAY_END_BAR": _is_day_end,
    "PAUSED": _is_over,
    "NOT_RECONCILED": _is_unread,
    "SYMBOL_CHANGED": _is_not_trading,
    "STALE_PRICE": _is_stale,
    "OFF_MARK": _is_off_mark,
    "UNKNOWN_ORDER": _is_on_its_way,
    "IN_POSITION": _is_open,
    "COOLDOWN": _is_cooling,
    "STOP_TOO_TIGHT": _is_tight,
    "LIQUIDATION_DISTANCE": _is_far,
    "SIZE_TOO_SMALL": _is_changed,
    "DAILY_BUDGET": _is_spent,
    **{rule: lambda reading, signal: is_reached(reading, signal.code, signal.time) for rule in TRADING_RULES},
}
"""By a refusal's code, what bears it out. LINK_DOWN has nothing: streams are there."""


# --- the account as the venue has it ----------------------------------------------------------------------------------


def differs(reading: Reading, time: int) -> bool:
    """Whether at a time, or in the minute before, the account was not ours alone, or not as it must be."""
    kept = vars(reading)
    if "_differing" not in kept:
        kept["_differing"] = list(_differing(reading))
    return any(begin <= time <= end + COMPARED_MS for begin, end in kept["_differing"])


def _differing(reading: Reading) -> Iterator[tuple[int, int]]:
    """Stretches in which the venue's log has a foreign position or order, or settings that are not the session's."""
    begun, judged = dict[str, int](), reading.evidence.judged
    for row in reading.evidence.truth:
        for key, is_wrong in _wrongs(reading, row):
            if is_wrong:
                begun.setdefault(key, row["time"])
            elif key in begun:
                yield begun.pop(key), row["time"]
    yield from ((begin, judged) for begin in begun.values())
    foreign = 0
    for fill in reading.fills:
        if foreign and fill.held == fill.ours:
            yield foreign, fill.time
            foreign = 0
        elif not foreign and fill.held != fill.ours:
            foreign = fill.time
    if foreign:
        yield foreign, judged


def _wrongs(reading: Reading, row: Json) -> list[tuple[str, bool]]:
    """What a row says of whether something is wrong with the account, each by a name."""
    match row["kind"]:
        case "order" | "algo" if not row["client_order_id"].startswith(OURS):
            number = row["order_id"] if row["kind"] == "order" else row["algo_id"]
            return [(f"{row['kind']} {number}", row["status"] in OPEN)]
        case "fill" if whose(row["client_order_id"]) != "ours":
            order = reading.books.orders.get(row["order_id"])
            return [(f"order {row['order_id']}", False)] if order is None or not order.is_open else []
    return settings_in(reading, row)


def settings_in(reading: Reading, row: Json) -> list[tuple[str, bool]]:
    """Whether each of the account's settings that a row tells is another one than the session's."""
    if row["kind"] == "assets_mode":
        return [("assets mode", bool(row["multi"]))]
    settings, names = reading.evidence.settings, ("leverage", "margin_type")
    if row["kind"] != "settings" or row["symbol"] != reading.symbol:
        return []
    told = [(name, row[name]) for name in names if name in row]
    return [(name.replace("_", " "), value != settings.get(name, value)) for name, value in told]


# --- halts by trading rules -------------------------------------------------------------------------------------------


def false_trips(reading: Reading) -> list[tuple[int, str]]:
    """Return when a rule on losses or counts is told to have tripped, though by the venue's log it was not reached."""
    found = []
    for _, row in reading.of_kind("BreakerChange"):
        body, time = row.body, max(row.time, row.body.get("time", 0))
        is_trip = body["mode"] != "ACTIVE" and body.get("action") != "resume" and body["rule"] in TRADING_RULES
        if is_trip and not is_reached(reading, body["rule"], time):
            found.append((time, body["rule"]))
    return found


def is_reached(reading: Reading, rule: str, time: int) -> bool:
    """Whether the venue's log has a loss, or a count, as large as a rule allows, at a time.

    A loss is the fall of the equity without what was paid in or out: from its highest since a person's resume, and for
    DAILY_LOSS from where it stood when the day began, or at a resume since then.
    """
    settings, since = reading.evidence.settings, _measured_since(reading, rule, time)
    if rule == "TRADES_PER_DAY":
        begun = {fill.client_id for fill in reading.fills if since <= fill.time <= time and "e" in fill.client_id[-3:]}
        return len(begun) >= int(settings.get("max_trades_per_day", 10**9))
    if rule == "LOSING_STREAK":
        return _losing_streak(reading, time) >= int(settings.get("max_consecutive_losses", 10**9))
    name = "max_daily_loss_fraction" if rule == "DAILY_LOSS" else "max_drawdown_fraction"
    wallets = [Decimal(row["wallet"]) for row in reading.evidence.of_kind("start", "account") if row["time"] <= time]
    least = min([Decimal(str(settings.get("capital", 0))), *wallets])
    fall = lost_today(reading, time) if rule == "DAILY_LOSS" else lost(reading, since, time)
    return fall >= Decimal(str(settings.get(name, 1))) * least * NEAR


def _measured_since(reading: Reading, rule: str, time: int) -> int:
    """From when on a rule measures: the day, for that of a day, or a person's last resume before."""
    resumed = [row.time for _, row in reading.of_kind("Operator") if row.body["action"] == "resume"]
    day = time // DAY_MS * DAY_MS if rule in ("DAILY_LOSS", "TRADES_PER_DAY") else 0
    resumes = [] if rule == "TRADES_PER_DAY" else [each for each in resumed if each < time]
    return max([day, *resumes])


def _losing_streak(reading: Reading, time: int) -> int:
    """Most losing round trips in a row up to a time."""
    most = row = 0
    for trip in sorted(reading.trips, key=lambda trip: trip["closed_at"]):
        row = 0 if trip["net"] > 0 else row + 1
        most = max(most, row) if trip["closed_at"] <= time else most
    return most


def lost(reading: Reading, since: int, until: int) -> Decimal:
    """The fall of the equity from its highest since a time to its lowest within 15 s before another."""
    highest = [equity for _, equity in _between(reading, since, until)]
    lowest = [equity for _, equity in _between(reading, until - VALUED_MS, until + NEWS_MS)]
    return max(highest) - min(lowest) if highest and lowest else ZERO


def lost_today(reading: Reading, until: int) -> Decimal:
    """The fall of the equity from where it stood, within 15 s, when the day began or a person resumed, to its lowest
    within 15 s before a time."""
    since = max(_measured_since(reading, "DAILY_LOSS", until), reading.start.get("time", 0))
    begun = [equity for _, equity in _between(reading, since - VALUED_MS, min(since + VALUED_MS, until))]
    before = _between(reading, 0, since)[-1:]
    lowest = [equity for _, equity in _between(reading, until - VALUED_MS, until + NEWS_MS)]
    begun += [equity for _, equity in before] or [ZERO]
    return max(begun) - min(lowest) if lowest else ZERO


def _between(reading: Reading, begin: int, end: int) -> list[tuple[int, Decimal]]:
    """The equity at each price between two times, both included."""
    kept = vars(reading)
    if "_equities" not in kept:
        kept["_equities"] = list(_equity(reading))
    found: list[tuple[int, Decimal]] = kept["_equities"]
    first = bisect.bisect_left(found, begin, key=lambda each: each[0])
    return found[first : bisect.bisect_right(found, end, key=lambda each: each[0])]


def _equity(reading: Reading) -> Iterator[tuple[int, Decimal]]:
    """What trading and funding have made, with the position at each price that was traded or marked."""
    rows = reading.evidence.of_kind("fill", "account", "mark")
    prices = [(time, {"kind": "trade", "price": price}) for _, price, _, time, _ in reading.evidence.tape]
    cash = held = last = ZERO
    before = Decimal(reading.start.get("wallet", "0"))
    for time, row in sorted([*prices, *((row["time"], row) for row in rows)], key=lambda each: each[0]):
        match row["kind"]:
            case "fill":
                side = 1 if row["side"] == "BUY" else -1
                last = Decimal(row["price"])
                cash -= side * Decimal(row["quantity"]) * last + Decimal(row["fee"])
                held, before = Decimal(row["position"]), Decimal(row["wallet"])
            case "account":
                cash += Decimal(row["wallet"]) - before if row["reason"] == "FUNDING_FEE" else ZERO
                before = Decimal(row["wallet"])
            case _:
                last = Decimal(row["price"])
        yield time, cash + held * last
