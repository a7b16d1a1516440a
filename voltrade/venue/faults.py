"""Scripts of faults: what a simulated venue does wrong on purpose.

A script is a list of faults, each a JSON object. `faults.json` describes each kind, its required values and its fields,
and has some named scripts, such as `storm`. A fault applies to requests, to events for a client, or at a time of the
venue's clock. `injection` carries a script out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from voltrade.errors import ConfigError
from voltrade.simulated.refusals import codes
from voltrade.simulated.symbols import table

TABLE = table("venue/faults.json")
REQUESTS, EVENTS, TIMES = TABLE["requests"], TABLE["events"], TABLE["times"]
"""Kinds of faults with their descriptions, by what they apply to."""
KINDS: Mapping[str, str] = {**REQUESTS, **EVENTS, **TIMES}
LOST: Mapping[str, Sequence[Any]] = TABLE["lost"]
"""Ways to lose a response: status, body and content type. `timeout` keeps the connection open, `abort` resets it."""

MARKET_EVENTS = ("aggTrade", "markPrice", "bookTicker", "kline")
ON_SOCKETS = ("abort", "close", "black_hole", "maintenance", "unreachable")
NEED_SPEED_1 = ("delay_answer", "delay_request")
"""Kinds that keep a client waiting: in lockstep it would wait for ever, since time waits for the client."""

GARBLED = ("cut", "text", "binary", "huge")

More = Mapping[str, Any]

# --- scripts ----------------------------------------------------------------------------------------------------------


def _one_of(known: Collection[Any], words: str = "") -> AfterValidator:
    def check(word: Any) -> Any:
        if word not in known:
            raise ValueError(f"must be one of {words or ', '.join(known)}")
        return word

    return AfterValidator(check)


class Fault(BaseModel):
    """One line of a script; `faults.json` describes its fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    do: Annotated[str, _one_of(KINDS)]
    on: re.Pattern[str] = re.compile("")
    at_s: Annotated[float, Field(ge=0)] = 0.0
    until_s: Annotated[float, Field(gt=0)] = 1e9
    every_s: Annotated[float, Field(ge=0)] = 0.0
    skip: Annotated[int, Field(ge=0)] = 0
    times: Annotated[int, Field(ge=0)] = 1
    chance: Annotated[float, Field(gt=0, le=1)] = 1.0
    how: Annotated[str, _one_of(LOST)] = "unknown"
    code: Annotated[int, _one_of((0, 418, 429, *codes()), "`python -m voltrade venue --tables`")] = 0
    for_s: Annotated[float, Field(ge=0)] = 0.0
    more: More = Field(default_factory=dict, alias="with")
    without: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if missing := [name for name in TABLE["needs"].get(self.do, ()) if name not in self.more]:
            raise ValueError(f"with: must have {', '.join(missing)}")
        if (spoilt := self.more.get("as", "cut")) not in GARBLED and self.do == "garble":
            raise ValueError(f"with.as: must be one of {', '.join(GARBLED)}, was {spoilt}")
        if self.do == "ban":
            if self.code not in (0, 418, 429):
                raise ValueError(f"code: a ban has 418 or 429, was {self.code}")
        elif self.code not in codes() and (self.code or self.do == "refuse"):
            raise ValueError(f"code: {self.do} must have a code of the exchange, was {self.code}")
        return self


def load_script(name: str) -> list[Fault]:
    """Read a script by its name or the path of a JSON file.

    Raises:
        ConfigError: the script is invalid; names the line, the field and the rule.
    """
    named = TABLE["scripts"]
    try:
        lines = named[name] if name in named else json.loads(Path(name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"faults: must be one of {', '.join(named)} or a JSON file, was {name}: {error}") from None
    return read_script(lines)


def read_script(lines: object) -> list[Fault]:
    """Read a script from decoded JSON.

    Raises:
        ConfigError: see `load_script`.
    """
    try:
        return TypeAdapter(list[Fault]).validate_python(lines)
    except ValidationError as error:
        row = error.errors()[0]
        where = f"line {int(row['loc'][0]) + 1}: {'.'.join(map(str, row['loc'][1:]))}: " if row["loc"] else ""
        raise ConfigError(f"faults: {where}{row['msg']}, was {row['input']!r}") from None


def written(script: Iterable[Fault]) -> list[dict[str, Any]]:
    """Return a script as decoded JSON, which `read_script` reads."""
    return [fault.model_dump(mode="json", exclude_defaults=True, by_alias=True) for fault in script]


def check_lockstep(script: Iterable[Fault]) -> None:
    """Refuse faults that are impossible in lockstep, since the client would wait for market data forever.

    Raises:
        ConfigError: there is such a fault.
    """
    for fault in script:
        on_market = fault.do in EVENTS and any(fault.on.search(f"market {kind}") for kind in MARKET_EVENTS)
        on_socket = fault.do in ON_SOCKETS and fault.on.search("market")
        if fault.do in NEED_SPEED_1 or on_market or on_socket:
            where = fault.on.pattern or "everything"
            raise ConfigError(f"faults: {fault.do} on {where} needs speed 1, was in lockstep")


def script_help() -> str:
    """Return the description of scripts for `--help`."""
    example = '[{"do": "lose_answer", "on": "POST /fapi/v1/order", "how": "abort", "chance": 0.1, "times": 0}]'
    lines = [f"faults: a script with a name ({', '.join(TABLE['scripts'])}),"]
    lines += ["or a JSON file: a list of objects, such as", f"{example}.", "Kinds (do):"]
    lines += [*(f"  {name:14} {text}" for name, text in KINDS.items()), "Fields:"]
    return "\n".join([*lines, *(f"  {name:14} {text}" for name, text in TABLE["fields"].items())]) + "\n"
