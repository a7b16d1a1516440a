"""Settings: a validated, frozen model for each component; the names of all settings form one flat set of parameters.

Parameters of notebooks, of saved parameter files and of the command line are all read by `Config.from_parameters`. It
refuses unknown names, wrong types, texts for booleans, numbers that aren't finite, and values that look like a key; the
error names each parameter and the rule that it breaks. The defaults are safe: the simulated venue, no key, no network.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from voltrade.errors import ConfigError
from voltrade.model import Instrument, storable


def _decimal(value: object, info: ValidationInfo) -> Decimal:
    """Convert an int, float or Decimal (or a text from JSON, where amounts are stored as texts) to Decimal."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError("must be a number")
    if isinstance(value, str) and info.mode != "json":
        raise ValueError("must be a number, not a text")
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise ValueError("must be a number") from None
    if not number.is_finite():
        raise ValueError("must be finite")
    return number


Amount = Annotated[Decimal, BeforeValidator(_decimal)]
PositiveAmount = Annotated[Amount, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Account = Annotated[PositiveAmount, Field(le=10**9)]
"""An amount of the account; its products with leverage and price fit 64 bits."""
Length = Annotated[int, Field(ge=1, le=100_000)]
"""Length of an indicator in bars; limited, since an indicator may store a value for each bar."""

# The limit is more than any use needs, and small enough for 64 bits of milliseconds, bars or 1e-8.
Wholes = Annotated[int, Field(ge=0, le=10**9)]
Count = Annotated[int, Field(ge=1, le=10**9)]
LEAST_SECONDS = 0.1
"""Shortest duration of a setting; a shorter time could pass before the exchange can respond."""


def _zero_or_long_enough(seconds: float) -> float:
    if 0 < seconds < LEAST_SECONDS:
        raise ValueError(f"must be 0 or at least {LEAST_SECONDS}")
    return seconds


Seconds = Annotated[float, Field(ge=0, le=10**9), AfterValidator(_zero_or_long_enough)]
PositiveSeconds = Annotated[float, Field(ge=LEAST_SECONDS, le=10**9)]


def _zero_or_one(speed: float) -> float:
    if speed not in (0.0, 1.0):
        raise ValueError("must be 0 (lockstep) or 1 (wall clock)")
    return speed


BasisPoints = Annotated[float, Field(ge=0, le=10_000)]

BreakerAction = Literal["block", "cancel", "flatten"]
Resume = Literal["next_utc_day", "after_seconds", "person"]
StopPolicy = Literal["protect", "flatten", "carry_on"]
Mode = Literal["sim", "paper", "demo", "live"]

RUN_DIR = "VOLTRADE_RUN_DIR"
"""Environment variable of a notebook's kernel: the folder for the files of its session."""
NOTEBOOK = "VOLTRADE_NOTEBOOK"
"""Environment variable of an engine that a notebook started: the process id of the notebook's kernel."""
RECORDED = "VOLTRADE_RECORDED"
"""Environment variable of a notebook's kernel: set where papermill executes the notebook without a user."""


class Settings(BaseModel):
    """Base of the settings: frozen, strict types, no unknown names, finite numbers."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _is_storable(cls, value: object) -> object:
        """Refuse a text that UTF-8 can't encode, such as a file name with other bytes."""
        if isinstance(value, str) and storable(value) != value:
            raise ValueError("must be UTF-8 text")
        return value


def milliseconds(seconds: float) -> int:
    """Convert seconds of a setting to whole milliseconds."""
    return round(seconds * 1000)


class BarSettings(Settings):
    """How trades become volume bars."""

    unit: Literal["base", "quote", "trades"] = "base"
    """What the threshold counts: `base` coins, `quote` price x quantity in the quote asset, `trades` aggTrades."""
    threshold: Annotated[PositiveAmount, Field(le=10**18)] = Decimal(10)
    """Volume at which a bar closes, in `unit`. For `base` it must be a multiple of the symbol's step. Where the
    parameters of a session, explorer or backtest (`read_parameters`) have none, or 0, the symbol's own is taken;
    `demo` and `live` want one that is given. `Config` itself keeps this default."""
    anchor: Literal["utc_day", "continuous"] = "utc_day"
    """`utc_day`: the first trade of a UTC day closes the open bar before its threshold. `continuous`: no daily cut."""
    least_bars_a_day: Annotated[float, Field(ge=0)] = 0.0
    """Fewer bars than this in 24 hours raise an alert, and nothing else: the threshold no longer suits the market; 0
    for no limit."""
    most_bars_a_day: Annotated[float, Field(ge=0)] = 0.0
    """More bars than this in 24 hours raise the same alert; 0 for no limit. `notebooks/01_data.ipynb` computes both."""


class SignalSettings(Settings):
    """Settings of the indicators and the entry rule. Lengths are in bars."""

    vwap_length: Length = 20
    ema_fast: Length = 8
    ema_slow: Length = 21
    bollinger_length: Annotated[Length, Field(ge=2)] = 20
    bollinger_width: Annotated[float, Field(gt=0)] = 2.0
    """Distance of each band from the middle in population standard deviations."""
    rsi_length: Length = 14
    atr_length: Length = 14
    use_ema_cross: bool = True
    """Trigger: the fast EMA crosses the slow one."""
    use_bollinger_breakout: bool = True
    """Trigger: the close moves out of the bands."""
    use_rsi_filter: bool = True
    """Filter: no long at or above `rsi_overbought`, no short at or below `rsi_oversold`."""
    rsi_overbought: Annotated[float, Field(gt=0, le=100)] = 75.0
    rsi_oversold: Annotated[float, Field(ge=0, lt=100)] = 25.0
    use_vwap_filter: bool = True
    """Filter: long only above the rolling VWAP, short only below."""
    allow_long: bool = True
    allow_short: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ema_fast >= self.ema_slow:
            raise ValueError(f"ema_fast must be below ema_slow, were {self.ema_fast} and {self.ema_slow}")
        if self.rsi_oversold >= self.rsi_overbought:
            raise ValueError(
                f"rsi_oversold must be below rsi_overbought, were {self.rsi_oversold} and {self.rsi_overbought}"
            )
        return self

    def converted_to(self, kind: type[SignalSettings]) -> SignalSettings:
        """Return settings of another rule's type; settings with the same names keep their values, others are defaults.

        Raises:
            ConfigError: a value is out of the bounds of that type.
        """
        if type(self) is kind:
            return self
        with _explained():
            return kind(**{name: value for name, value in self.__dict__.items() if name in kind.model_fields})


class ExitSettings(Settings):
    """Exits of an open position: stop, take-profit, opposite signal and time."""

    stop_atr: Annotated[float, Field(gt=0)] = 2.0
    """Distance of the stop from the average fill price, in ATR of the bar that gave the signal."""
    take_profit_atr: Annotated[float, Field(ge=0)] = 3.0
    """Distance of the take-profit likewise; 0 for none."""
    min_stop_bps: BasisPoints = 5.0
    """An entry whose stop is nearer than this is refused as STOP_TOO_TIGHT; so is one nearer than 3 ticks, or than
    twice the fees and slippage of a round trip."""
    exit_on_opposite_signal: bool = True
    """An opposite signal closes the position, before any gate is asked."""
    max_holding_bars: Wholes = 0
    """Exit when this many bars have closed since the entry's first fill; 0 for never. Bars that close between two
    sessions don't count, though `max_holding_s` goes on."""
    max_holding_s: Seconds = 0.0
    """Exit this many seconds after the entry's first fill; 0 for never."""
    working_type: Literal["CONTRACT_PRICE", "MARK_PRICE"] = "CONTRACT_PRICE"
    """Which price triggers stop and take-profit: the last trade's, or the mark price."""


class RiskSettings(Settings):
    """Position size, limits of the circuit breaker, and cooldown."""

    capital: Account = Decimal(10_000)
    """Amount in the quote asset that sizes and limits refer to; for sizes a smaller wallet balance counts instead."""
    risk_fraction: Fraction = 0.005
    """Part of the capital, or of a smaller wallet, that a size is chosen by: what a stop-out at the stop's own price
    costs at most, with fees and expected slippage. A price that jumps past the stop costs more."""
    max_notional_multiple: Annotated[float, Field(gt=0, le=20)] = 2.0
    """Largest notional of an entry, as a multiple of the capital, or of a smaller wallet."""
    max_mark_gap_bps: Annotated[BasisPoints, Field(gt=0)] = 50.0
    """No entry while the last price is further than this from the mark price; while that isn't known, none is refused
    for it."""
    leverage: Annotated[int, Field(ge=1, le=125)] = 5
    """What the symbol's leverage at the exchange must be; `apply_account_settings` sets it. It bounds an entry by its
    margin, and makes none larger."""
    margin_type: Literal["isolated", "cross"] = "isolated"
    """What the symbol's margin type at the exchange must be; likewise."""
    max_daily_loss_fraction: Fraction = 0.03
    """Loss of equity since 00:00 UTC at which the rule trips, as a part of capital, or of the equity at 00:00 UTC if
    that is less. It counts from the account's first start or the rule's release, where that is later. A price that
    jumps can lose more before the position is closed."""
    daily_loss_action: BreakerAction = "flatten"
    """What happens at the limit. `block`: no entry; `cancel`: an open entry is also cancelled; `flatten`: the position
    is also closed at market."""
    daily_loss_resume: Resume = "next_utc_day"
    """When entries are allowed again: `next_utc_day`, `after_seconds` (`resume_after_s`) or `person`. After the latter
    two the loss is measured from the equity of that moment, so that the same day may lose the limit again."""
    max_drawdown_fraction: Fraction = 0.10
    """Fall of equity from its peak at which the rule trips, as a part of capital, or of the peak if that is less."""
    drawdown_action: BreakerAction = "flatten"
    """As `daily_loss_action`."""
    drawdown_resume: Resume = "person"
    """As `daily_loss_resume`; after it the drawdown is measured from the equity of that moment."""
    max_consecutive_losses: Count = 5
    """Round trips in a row with a net PnL below zero at which the rule trips; one of zero counts neither way."""
    consecutive_losses_action: BreakerAction = "block"
    """As `daily_loss_action`."""
    consecutive_losses_resume: Resume = "after_seconds"
    """As `daily_loss_resume`; the count goes on, so that the next loss trips the rule again."""
    max_trades_per_day: Count = 50
    """Round trips begun since 00:00 UTC at which the rule trips; the last of them is not closed for it."""
    trades_per_day_action: Literal["block", "cancel"] = "block"
    """As `daily_loss_action`; not `flatten`, which would close the last round trip of the day as it opens."""
    trades_per_day_resume: Resume = "next_utc_day"
    """As `daily_loss_resume`; within the day the count goes on, so that the next round trip trips the rule again."""
    resume_after_s: PositiveSeconds = 14_400.0
    """Pause of a rule that resumes `after_seconds`."""
    cooldown_s: Seconds = 0.0
    """No entry for this many seconds after the last exit fill."""
    cooldown_bars: Wholes = 3
    """The first so many bars that close after the last exit fill allow no entry; of those between two sessions none
    counts. Entries are at least 1 s apart."""


class ExecutionSettings(Settings):
    """How orders are sent, and how the simulated exchange executes them."""

    entry: Literal["market", "ioc_limit"] = "market"
    max_slippage_bps: Annotated[BasisPoints, Field(gt=0)] = 10.0
    """Distance of the limit price of an `ioc_limit` entry from the last price; a `market` entry has no such bound."""
    order_stale_s: PositiveSeconds = 10.0
    """After this long without an update an entry that a look-up finds open is cancelled, and a conditional order that
    has no answer, or has triggered and not ended, is looked up. A stop or take-profit that waits is not."""
    recv_window_ms: Annotated[int, Field(ge=500, le=60_000)] = 5_000
    """A signed request that arrives later than this after it was sent is refused by the exchange."""
    latency_ms: Wholes = 50
    """Simulated exchange: time from the decision until the order is there; a cancel is there at once. See `wallet`."""
    slippage_bps: BasisPoints = 0.5
    """Simulated exchange: each fill of an order that takes is worse by this, an extrapolated one by twice as much; a
    limit order's is never beyond its limit. In every mode sizes count with it as the expected slippage."""
    fill_horizon_s: Seconds = 10.0
    """Simulated exchange: an order that takes is priced by trades at most this long after its arrival; what they don't
    cover is extrapolated."""
    taker_fee: Annotated[Amount, Field(ge=0, lt=Decimal("0.1"))] = Decimal("0.0005")
    """Fee of the simulated exchange, as a part of the notional; those of the real one are read at the start, and again
    with a whole snapshot of the account once they are a day old (commissionRate)."""
    maker_fee: Annotated[Amount, Field(ge=0, lt=Decimal("0.1"))] = Decimal("0.0002")
    """As `taker_fee`, for orders that rest; voltrade's own never do."""
    mark_interval_s: Count = 60
    """Simulated exchange: time between two mark prices, where the tape has none."""
    funding_rate: Annotated[Amount, Field(gt=Decimal("-0.03"), lt=Decimal("0.03"))] = Decimal(0)
    """Simulated exchange: longs pay it to shorts at each funding time of the symbol, where the tape has no funding;
    shorts to longs where it is negative."""
    wallet: Account = Decimal(10_000)
    """Simulated exchange: wallet balance of a new account. One that goes on, as in `paper`, keeps wallet, fees,
    latency, slippage and fill horizon of its first start; a venue given by `venue` has those of its own flags."""


def _own_venue(address: str) -> str:
    if not re.fullmatch(r"|http://(127\.0\.0\.1|localhost):[0-9]{1,5}", address):
        raise ValueError("must be the address of a venue on this machine, such as http://127.0.0.1:9000, or empty")
    return address


def _one_symbol(symbol: str) -> str:
    if not symbol.isascii():
        raise ValueError(
            "must be of A-Z and 0-9; names in other scripts aren't traded, since Binance signs their bytes"
        )
    if not re.fullmatch(r"[A-Z0-9]{2,20}(_[0-9]{6})?", symbol):
        raise ValueError("must be one symbol, such as BTCUSDT, or BTCUSDT_260327 for a quarterly, in capitals")
    return symbol


class SessionSettings(Settings):
    """What a session trades, and how it ends."""

    mode: Mode = "sim"
    symbol: Annotated[str, AfterValidator(_one_symbol)] = "BTCUSDT"
    tape: Annotated[str, Field(min_length=1)] = "synthetic"
    """For `sim` and backtests: `synthetic`, the path of a file of trades, or days of the store, first and last
    included: `store:BTCUSDT:2026-01-05:2026-01-11`."""
    seed: Annotated[int, Field(ge=0)] = 8
    """Seed of the synthetic tape, of the simulated mark price, and of the venue's faults."""
    hours: Annotated[float, Field(gt=0, le=24 * 366)] = 12.0
    """Length of the synthetic tape."""
    speed: Annotated[float, AfterValidator(_zero_or_one)] = 0.0
    """`sim`: 1 plays the tape by the wall clock, 0 in lockstep with the engine, as fast as possible."""
    venue: Annotated[str, AfterValidator(_own_venue)] = ""
    """Address of a running `python -m voltrade venue`. In `sim` its account is kept after the session; empty for a
    venue, tape and account that exist for this session only. In `paper`, `demo` and `live` it replaces Binance, for
    trials."""
    rest_host: str = ""
    """Host of Binance's REST paths; empty for the mode's own. Only hosts of Binance's for this mode are accepted."""
    stream_host: str = ""
    """Host of Binance's websockets, such as `fstream.binancefuture.com` for mode `demo`; empty for the mode's own."""
    begin_s: Seconds = 0.0
    """`sim` and backtests: the session begins this many seconds after the tape's first trade; earlier trades warm up
    the indicators."""
    confirmation: str = ""
    """`live`: the operator's confirmation, for today, of symbol, largest notional and account. `python -m voltrade
    doctor` and the refusal of an empty confirmation show the text to type."""
    allow_unchecked: bool = False
    """`live`: whether to start without a passed `demo_check`, and with a key whose rights can't be read."""
    new_account: bool = False
    """`demo`, `live`: whether to start with another account or host than at the mode's first start, and to keep it."""
    apply_account_settings: bool = False
    """Whether a new session sets one-way mode, margin type and leverage of the symbol at the exchange where they
    differ, the symbol has neither position nor open order, and all else allows the start. If not, a difference prevents
    it."""
    record_trades: Literal["binance", "always", "never"] = "binance"
    """Whether trades go to the store of `python -m voltrade data`. `binance`: in `paper` and `live`, unless `venue` is
    set."""
    duration_s: Seconds = 0.0
    """End the session this many seconds after it first read the account; 0 for the end of the tape, or never."""
    rule: str = ""
    """A rule file and its class, such as `rules/adx.py:Adx`; empty for the built-in rule. The settings of the rule are
    parameters too."""
    on_duration_end: StopPolicy = "flatten"
    """When `duration_s` is over. `flatten`: close at market; `protect`: leave the position with its stop and
    take-profit, which stay at the exchange and may close it after the session; `carry_on`: trade on, as if `duration_s`
    were 0 (at the end of a tape: `protect`)."""
    on_interrupt: StopPolicy = "protect"
    """At an interrupt of the notebook, a signal to the engine, or `ctl stop`; as `on_duration_end`. With `carry_on` an
    interrupted cell only stops its display; a signal or `ctl stop` ends the session as `protect` does."""
    on_notebook_lost: StopPolicy = "protect"
    """When the notebook is closed or killed; as `on_duration_end`, but `carry_on` trades on to the session's end."""

    @model_validator(mode="after")
    def _belongs_to_the_mode(self) -> Self:
        if self.confirmation and self.mode != "live":
            raise ValueError(f"confirmation is for mode live only, the mode was {self.mode}")
        if self.begin_s and self.mode != "sim":
            raise ValueError(f"begin_s is for mode sim only, the mode was {self.mode}")
        if (self.rest_host or self.stream_host) and (self.venue or self.mode == "sim"):
            raise ValueError("rest_host and stream_host are for Binance, not for a simulated venue")
        return self


class Config(Settings):
    """All settings of a session or a backtest."""

    session: SessionSettings = SessionSettings()
    bars: BarSettings = BarSettings()
    signals: SerializeAsAny[SignalSettings] = SignalSettings()
    exits: ExitSettings = ExitSettings()
    risk: RiskSettings = RiskSettings()
    execution: ExecutionSettings = ExecutionSettings()

    @classmethod
    def from_parameters(
        cls,
        parameters: Mapping[str, object] | None = None,
        /,
        *,
        signals: type[SignalSettings] = SignalSettings,
        **more: object,
    ) -> Config:
        """Build the settings from flat parameters such as `symbol="BTCUSDT", threshold=20`.

        Args:
            parameters: values by name; those of `more` take precedence.
            signals: the type of the rule's settings. For parameters with a `rule`, use
                `strategy.rule_file.read_parameters`.

        Raises:
            ConfigError: names every parameter that is unknown, of the wrong type or out of bounds, or that may be a
                secret.
        """
        given = {**(parameters or {}), **more}
        refuse_secrets(given)
        with _explained():
            return cls.model_validate({"signals": {}, **_by_component(given, signals)}, context=signals)

    @classmethod
    def from_json(cls, text: str | bytes, signals: type[SignalSettings] = SignalSettings) -> Config:
        """Read settings from the text of `model_dump_json`; `signals` is the type of the rule's settings.

        Raises:
            ConfigError: the text is not valid JSON of settings.
        """
        with _explained():
            return cls.model_validate_json(text, context=signals)

    def parameters(self) -> dict[str, Any]:
        """Return all parameters, defaults included, as plain JSON values that `from_parameters` accepts."""
        parts = self.model_dump()
        return {name: _plain_number(value) for part in parts.values() for name, value in part.items()}

    def changed(self, **parameters: object) -> Config:
        """Return a copy of these settings with some parameters changed.

        Raises:
            ConfigError: names every parameter that is unknown, of the wrong type or out of bounds.
        """
        parts: dict[str, Settings] = {}
        for home, new in _by_component(parameters, type(self.signals)).items():
            part: Settings = getattr(self, home)
            with _explained():
                parts[home] = type(part).model_validate({**part.__dict__, **new})
        return self.model_copy(update=parts)

    @field_validator("signals", mode="wrap")
    @classmethod
    def _of_the_rule(cls, value: object, handler: Any, info: ValidationInfo) -> SignalSettings:
        """Read the signal settings as the type that the validation context gives."""
        read = handler if info.context is None or isinstance(value, SignalSettings) else info.context.model_validate
        settings: SignalSettings = read(value)
        return settings

    @property
    def fingerprint(self) -> str:
        """Short hash of the settings, the same for equal settings."""
        text = json.dumps(self.parameters(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def check_against(self, instrument: Instrument) -> None:
        """Refuse settings that don't fit the filters of a symbol.

        Raises:
            ConfigError: the threshold is not a multiple of the step, or a bar could overflow 64 bits.
        """
        threshold = self.bars.threshold
        if self.bars.unit == "base" and threshold % instrument.step_size:
            raise ConfigError(
                f"threshold: must be a multiple of {instrument.symbol}'s step {instrument.step_size}, was {threshold}"
            )
        if self.bars.unit == "trades" and threshold != int(threshold):
            raise ConfigError(f"threshold: must be a whole number of trades, was {threshold}")
        if self.bars.unit == "base" and instrument.max_price * (threshold / instrument.step_size) >= 2**62:
            raise ConfigError(f"threshold: a bar's notional must stay below 2^62 ticklots, was {threshold}")


def _plain_number(value: Any) -> Any:
    """Convert an amount to an int or float that is read back as the same amount; return other values unchanged."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == int(value) else float(value)


@cache
def parameter_homes(signals: type[SignalSettings] = SignalSettings) -> Mapping[str, str]:
    """Map the name of every parameter to its component; `signals` is the type of the rule's settings.

    Raises:
        ConfigError: two components have a parameter of the same name.
    """
    homes: dict[str, str] = {}
    parts = {name: cast(type[Settings], part.annotation) for name, part in Config.model_fields.items()}
    for component, part in {**parts, "signals": signals}.items():
        for name in part.model_fields:
            if name in homes:
                raise ConfigError(f"{name}: must be unique, is in {homes[name]} and {component}")
            homes[name] = component
    return homes


def _by_component(parameters: Mapping[str, object], signals: type[SignalSettings]) -> dict[str, dict[str, object]]:
    """Group parameters by component.

    Raises:
        ConfigError: names every parameter that is unknown.
    """
    homes = parameter_homes(signals)
    refuse_unknown(parameters, homes)
    nested: dict[str, dict[str, object]] = {}
    for name, value in parameters.items():
        nested.setdefault(homes[name], {})[name] = value
    return nested


def refuse_unknown(parameters: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse unknown parameters.

    Raises:
        ConfigError: names every unknown parameter.
    """
    if unknown := sorted(set(parameters) - set(known)):
        told = (f"{name}: unknown parameter, was {parameters[name]!r}{_meant(name, known)}" for name in unknown)
        raise ConfigError("; ".join(told))


def _meant(name: str, known: Collection[str]) -> str:
    """Return the parameter that a person may have meant, as a question; empty where none is like it."""
    alike = get_close_matches(name, known, 1, cutoff=0.75)
    return f" (did you mean {alike[0]}?)" if alike else ""


_SECRET_NAME = re.compile(r"(api_?key|secret|token|passw|private_?key|signature|credential)", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"^[A-Za-z0-9+/=_-]{40,}$")


def refuse_secrets(parameters: Mapping[str, object]) -> None:
    """Refuse a parameter whose name or value looks like a key; papermill would store it in the notebook.

    Raises:
        ConfigError: names the parameter, but not its value.
    """
    for name, value in parameters.items():
        looks_secret = isinstance(value, str) and _SECRET_VALUE.match(value) and not Path(value).exists()
        if _SECRET_NAME.search(name) or looks_secret:
            raise ConfigError(f"{name}: keys must come from the environment or a 0600 file, never from a parameter")


@contextmanager
def _explained() -> Iterator[None]:
    """Convert a `ValidationError` to a ConfigError."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    """Return the parameter, the broken rule and the value of each problem."""
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][-1]) if problem["loc"] else "settings"
        rule = problem["msg"].removeprefix("Value error, ")
        value = problem["input"]
        shown = f", was {value!r}" if not isinstance(value, dict | Settings) else ""
        if isinstance(value, float) and not math.isfinite(value):
            rule = "must be a finite number"
        lines.append(f"{name}: {rule}{shown}")
    return "; ".join(lines)
