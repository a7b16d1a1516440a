"""Settings: one validated, frozen model for each component, all reachable by one flat set of parameter names.

A notebook's parameters, a saved parameter file and the command line all end in `Config.from_parameters`, which refuses
unknown names, wrong types, strings for booleans, numbers that aren't finite, and anything that looks like a key, and
says which parameter broke which rule. Every default is safe: the simulated venue, no key, no network.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
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
    """Take a whole, floating or Decimal number (a text only from JSON, where amounts are stored as texts)."""
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
"""An amount whose multiples by leverage and price fit 64 bits."""
Length = Annotated[int, Field(ge=1, le=100_000)]
"""Of an indicator, in bars, each of which may need a place in its memory."""

# Far more than anybody wants, and within what 64 bits hold of milliseconds, bars and 1e-8.
Wholes = Annotated[int, Field(ge=0, le=10**9)]
Count = Annotated[int, Field(ge=1, le=10**9)]
LEAST_SECONDS = 0.1
"""The shortest duration that can be wanted: what is due sooner would be due before an answer can have come."""


def _worth_waiting(seconds: float) -> float:
    if 0 < seconds < LEAST_SECONDS:
        raise ValueError(f"must be 0 or at least {LEAST_SECONDS}")
    return seconds


Seconds = Annotated[float, Field(ge=0, le=10**9), AfterValidator(_worth_waiting)]
PositiveSeconds = Annotated[float, Field(ge=LEAST_SECONDS, le=10**9)]


def _playable(speed: float) -> float:
    if speed not in (0.0, 1.0):
        raise ValueError("must be 0 (lockstep) or 1 (wall clock)")
    return speed


BasisPoints = Annotated[float, Field(ge=0, le=10_000)]

BreakerAction = Literal["block", "cancel", "flatten"]
Resume = Literal["next_utc_day", "after_seconds", "operator"]
StopPolicy = Literal["protect", "flatten", "carry_on"]
Mode = Literal["sim", "paper", "demo", "live"]

RUN_DIR = "VOLTRADE_RUN_DIR"
"""Environment of a notebook's kernel: the folder that its session's files go to."""
NOTEBOOK = "VOLTRADE_NOTEBOOK"
"""Environment of an engine that a notebook started: the process of that notebook's kernel."""
RECORDED = "VOLTRADE_RECORDED"
"""Environment of a notebook's kernel: set where it is executed into a record, with nobody at the screen."""


class Settings(BaseModel):
    """Base of the settings: frozen, strict types, no unknown names, finite numbers."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _is_storable(cls, value: object) -> object:
        """Refuse a text with bytes that are no UTF-8, such as the name of a file may have."""
        if isinstance(value, str) and storable(value) != value:
            raise ValueError("must be UTF-8 text")
        return value


def milliseconds(seconds: float) -> int:
    """Return a setting's seconds as the whole milliseconds that everything is timed by."""
    return round(seconds * 1000)


class BarSettings(Settings):
    """How trades become volume bars."""

    unit: Literal["base", "quote", "trades"] = "base"
    """What the threshold counts: coins, quote asset (price x quantity), or aggTrades."""
    threshold: Annotated[PositiveAmount, Field(le=10**18)] = Decimal(10)
    """Volume at which a bar closes, in `unit`. In coins it must be a multiple of the symbol's step."""
    anchor: Literal["utc_day", "continuous"] = "utc_day"
    """`utc_day`: the first trade of a UTC day closes the open bar short. `continuous`: no daily cut."""
    least_bars_a_day: Annotated[float, Field(ge=0)] = 0.0
    """Fewer bars than this in 24 hours, and a person is told that the market has left the threshold; 0 for none."""
    most_bars_a_day: Annotated[float, Field(ge=0)] = 0.0
    """More than this, likewise; 0 for no limit. `notebooks/01_data.ipynb` finds the band."""


class SignalSettings(Settings):
    """Indicators and the entry rule. Lengths are in bars."""

    vwap_length: Length = 20
    ema_fast: Length = 8
    ema_slow: Length = 21
    bollinger_length: Annotated[Length, Field(ge=2)] = 20
    bollinger_width: Annotated[float, Field(gt=0)] = 2.0
    """Half width of the bands in population standard deviations."""
    rsi_length: Length = 14
    atr_length: Length = 14
    use_ema_cross: bool = True
    """Trigger: the fast EMA crosses the slow one."""
    use_bollinger_breakout: bool = True
    """Trigger: the close leaves the bands."""
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
            ConfigError: what stays is out of the rule's bounds.
        """
        if type(self) is kind:
            return self
        with _explained():
            return kind(**{name: value for name, value in self.__dict__.items() if name in kind.model_fields})


class ExitSettings(Settings):
    """The position in hand: stop, take-profit, and the exits that need no price level."""

    stop_atr: Annotated[float, Field(gt=0)] = 2.0
    """Distance of the stop from the average fill price, in ATR."""
    take_profit_atr: Annotated[float, Field(ge=0)] = 3.0
    """Distance of the take-profit in ATR; 0 for none."""
    min_stop_bps: BasisPoints = 5.0
    """A stop nearer than this is refused as STOP_TOO_TIGHT, as is one within 3 ticks or twice the round-trip cost."""
    exit_on_opposite_signal: bool = True
    max_holding_bars: Wholes = 0
    """Leave after this many bars; 0 for never."""
    max_holding_s: Seconds = 0.0
    """Leave after this long; 0 for never."""
    working_type: Literal["CONTRACT_PRICE", "MARK_PRICE"] = "CONTRACT_PRICE"
    """Which price triggers stop and take-profit."""


class RiskSettings(Settings):
    """Size, the circuit breaker's limits, and the cooldown."""

    capital: Account = Decimal(10_000)
    """Ring-fenced amount in the quote asset that sizes and limits refer to; at most the balance."""
    risk_fraction: Fraction = 0.005
    """Part of the capital that one stop-out may cost, fees and expected slippage included."""
    max_notional_multiple: Annotated[float, Field(gt=0, le=20)] = 2.0
    """Largest position, as a multiple of capital."""
    leverage: Annotated[int, Field(ge=1, le=125)] = 5
    margin_type: Literal["isolated", "cross"] = "isolated"
    max_daily_loss_fraction: Fraction = 0.03
    """Largest loss of equity since 00:00 UTC, as a part of capital, or of the equity at that time where it is less."""
    daily_loss_action: BreakerAction = "flatten"
    daily_loss_resume: Resume = "next_utc_day"
    max_drawdown_fraction: Fraction = 0.10
    """Largest fall of equity from its peak, as a part of capital, or of that peak where it is less."""
    drawdown_action: BreakerAction = "flatten"
    drawdown_resume: Resume = "operator"
    max_consecutive_losses: Count = 5
    """Round trips in a row with net PnL below zero."""
    consecutive_losses_action: BreakerAction = "block"
    consecutive_losses_resume: Resume = "after_seconds"
    max_trades_per_day: Count = 50
    """Round trips begun since 00:00 UTC."""
    trades_per_day_action: BreakerAction = "block"
    trades_per_day_resume: Resume = "next_utc_day"
    resume_after_s: PositiveSeconds = 14_400.0
    """Pause of a rule whose resumption is `after_seconds`."""
    cooldown_s: Seconds = 0.0
    """No entry for this long after the last exit fill."""
    cooldown_bars: Wholes = 3
    """No entry for this many closed bars after the last exit fill."""


class ExecutionSettings(Settings):
    """How orders are sent, and the model of execution where the exchange is simulated."""

    entry: Literal["market", "ioc_limit"] = "market"
    max_slippage_bps: Annotated[BasisPoints, Field(gt=0)] = 10.0
    """Collar of an `ioc_limit` entry."""
    order_stale_s: PositiveSeconds = 10.0
    """An order in flight for longer is looked up."""
    recv_window_ms: Annotated[int, Field(ge=500, le=60_000)] = 5_000
    latency_ms: Wholes = 50
    """Simulated: from the decision to the matching engine."""
    slippage_bps: BasisPoints = 0.5
    """Simulated: added to each market fill against us; also the expected slippage that sizing uses."""
    taker_fee: Annotated[Amount, Field(ge=0, lt=Decimal("0.1"))] = Decimal("0.0005")
    """Simulated; at a real exchange commissionRate is asked at start."""
    maker_fee: Annotated[Amount, Field(ge=0, lt=Decimal("0.1"))] = Decimal("0.0002")
    mark_interval_s: Count = 60
    """Simulated: tape time between two mark prices."""
    funding_rate: Annotated[Amount, Field(gt=Decimal("-0.03"), lt=Decimal("0.03"))] = Decimal(0)
    """Simulated: paid by longs to shorts on mark notional at each of the symbol's funding times; a tape tells none."""
    wallet: Account = Decimal(10_000)
    """Simulated: wallet balance at start."""


class SessionSettings(Settings):
    """What a session trades on and how it ends."""

    mode: Mode = "sim"
    symbol: Annotated[str, Field(pattern=r"^[A-Z0-9]{2,20}$")] = "BTCUSDT"
    tape: Annotated[str, Field(min_length=1)] = "synthetic"
    """For `sim` and backtests: `synthetic`, the path of a file of trades, or days of the store, both included:
    `store:BTCUSDT:2026-01-05:2026-01-11`."""
    seed: Annotated[int, Field(ge=0)] = 8
    """Seed of the synthetic tape and of the simulated mark price."""
    hours: Annotated[float, Field(gt=0, le=24 * 366)] = 12.0
    """Length of the synthetic tape."""
    speed: Annotated[float, AfterValidator(_playable)] = 0.0
    """`sim`: 1 plays the tape by the wall clock, 0 in lockstep with the engine, as fast as both can."""
    venue: Annotated[str, Field(pattern=r"^(|http://(127\.0\.0\.1|localhost):\d{1,5})$")] = ""
    """Address of a running `python -m voltrade venue`. In `sim` its account then outlives the session; empty for a
    venue, tape and account of the session's own. In `paper`, `demo` and `live` it stands in for Binance, for trials."""
    begin_s: Seconds = 0.0
    """`sim`: the session begins this long after the tape does; what lies before is history, used to warm up."""
    confirmation: str = ""
    """`live`: a person's word, for today, that names symbol, largest notional and account; the refusal of an empty one
    and `python -m voltrade doctor` say what to type."""
    apply_account_settings: bool = False
    """Set one-way mode, margin type and leverage of the symbol at the exchange where they differ, while flat;
    otherwise a difference stops the start."""
    record_trades: Literal["binance", "always", "never"] = "binance"
    """Whether trades are kept in the store of `voltrade data`; `binance`: in `paper` and `live`, and from there."""
    duration_s: Seconds = 0.0
    """End the session after this long; 0 for the end of the tape, or never."""
    rule: str = ""
    """A rule file of one's own and its class, such as `rules/adx.py:Adx`; empty for the built-in rule. The rule's own
    settings are parameters too."""
    on_duration_end: StopPolicy = "flatten"
    on_interrupt: StopPolicy = "protect"
    on_notebook_lost: StopPolicy = "protect"

    @model_validator(mode="after")
    def _belongs_to_the_mode(self) -> Self:
        if self.confirmation and self.mode != "live":
            raise ValueError(f"confirmation is for mode live only, the mode was {self.mode}")
        if self.begin_s and self.mode != "sim":
            raise ValueError(f"begin_s is for mode sim only, the mode was {self.mode}")
        return self


class Config(Settings):
    """All settings of a session or backtest."""

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
            parameters: by their names; those of `more` win.
            signals: the settings of the rule. What names a rule file is read by `rule_file.read_parameters`.

        Raises:
            ConfigError: names every parameter that is unknown, of the wrong type, out of bounds, or like a secret.
        """
        given = {**(parameters or {}), **more}
        refuse_secrets(given)
        with _explained():
            return cls.model_validate({"signals": {}, **_by_component(given, signals)}, context=signals)

    @classmethod
    def from_json(cls, text: str | bytes, signals: type[SignalSettings] = SignalSettings) -> Config:
        """Read settings back from `model_dump_json`; `signals` is the type that they were made with.

        Raises:
            ConfigError: the text breaks a rule.
        """
        with _explained():
            return cls.model_validate_json(text, context=signals)

    def parameters(self) -> dict[str, Any]:
        """Return the flat parameters, defaults included, as plain JSON values that `from_parameters` takes back."""
        parts = self.model_dump()
        return {name: _plain_number(value) for part in parts.values() for name, value in part.items()}

    def changed(self, **parameters: object) -> Config:
        """Return these settings with some parameters changed; what isn't named stays as it is.

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
        """Read the signal settings as the type of the rule that they are for."""
        read = handler if info.context is None or isinstance(value, SignalSettings) else info.context.model_validate
        settings: SignalSettings = read(value)
        return settings

    @property
    def fingerprint(self) -> str:
        """Short hash that two equal sets of settings share."""
        text = json.dumps(self.parameters(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def check_against(self, instrument: Instrument) -> None:
        """Refuse settings that this symbol's filters make impossible.

        Raises:
            ConfigError: the threshold is no multiple of the step, or a bar could overflow 64 bits.
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
    """Write an amount as the number that is read back as the same amount; other values as they are."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == int(value) else float(value)


@cache
def parameter_homes(signals: type[SignalSettings] = SignalSettings) -> Mapping[str, str]:
    """Map every flat parameter name to the component it belongs to, with the rule's settings for `signals`.

    Raises:
        ConfigError: two components share a name.
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
    """Put flat parameters under the components that they belong to.

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
    """Refuse parameters that are none.

    Raises:
        ConfigError: names every one.
    """
    if unknown := sorted(set(parameters) - set(known)):
        raise ConfigError("; ".join(f"{name}: unknown parameter, was {parameters[name]!r}" for name in unknown))


_SECRET_NAME = re.compile(r"(api_?key|secret|token|passw|private_?key|signature|credential)", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"^[A-Za-z0-9+/=_-]{40,}$")


def refuse_secrets(parameters: Mapping[str, object]) -> None:
    """Refuse a parameter that is named like a key or looks like one; papermill would store it in the notebook twice.

    Raises:
        ConfigError: names the parameter, never its value.
    """
    for name, value in parameters.items():
        looks_secret = isinstance(value, str) and _SECRET_VALUE.match(value) and not Path(value).exists()
        if _SECRET_NAME.search(name) or looks_secret:
            raise ConfigError(f"{name}: keys must come from the environment or a 0600 file, never from a parameter")


@contextmanager
def _explained() -> Iterator[None]:
    """Let settings that break a rule be a ConfigError."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    """One line for each broken rule: parameter, rule, value."""
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
