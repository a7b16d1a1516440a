"""Reads the fields of one decoded JSON object by name and rule; an invalid field raises `DataError`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, TypeVar

from voltrade.errors import DataError
from voltrade.model import MONEY

_decimal_text = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII).fullmatch
_MAX_CHARACTERS = 24
"""Longest decimal text: fewer digits than the 28 of `Decimal`'s context, so that every step is exact."""
_MAX_CACHED = 1 << 16
_MAX_DECIMALS = 8
"""Most decimals that Binance writes: no tick or step is finer."""
LARGEST = 2**53
"""Greatest size of a count of units."""

Choice = TypeVar("Choice")


class Units(dict[str, int]):
    """Converts decimal texts to whole multiples of a unit, and caches them, since prices and sizes repeat.

    Args:
        unit: the tick, the step, or 1e-8 for money.
        largest: greatest absolute value of a result.
        nearest: whether to convert what is no multiple to the nearest one, but for 0. The exchange may make tick and
            step finer at any time, and what it tells of trades and of our position must be read all the same.

    Attributes:
        inexact: how many different texts were no multiples.
    """

    def __init__(self, unit: Decimal, largest: int = LARGEST, *, nearest: bool = False) -> None:
        super().__init__()
        self._unit = unit
        self._largest = largest
        self._nearest = nearest
        self.inexact = 0

    def __missing__(self, text: object) -> int:
        if not isinstance(text, str) or len(text) > _MAX_CHARACTERS or not _decimal_text(text):
            raise DataError("must be a plain decimal text")
        ratio = Decimal(text) / self._unit
        count = int(ratio)
        if count != ratio:
            count = self._nearest_to(text, ratio)
        if abs(count) > self._largest:
            raise DataError(f"must be at most {self._largest * self._unit}")
        if len(self) >= _MAX_CACHED:
            self.clear()
        self[text] = count
        return count

    def between(self, before: Decimal, text: str) -> int:
        """Return the units from a quantity to the quantity plus a text's, so that parts add up to the whole."""
        return self[f"{before + Decimal(text):f}"] - self[f"{before:f}"]

    def _nearest_to(self, text: str, ratio: Decimal) -> int:
        if not self._nearest or len(text.partition(".")[2].rstrip("0")) > _MAX_DECIMALS:
            raise DataError(f"must be a multiple of {self._unit}")
        self.inexact += 1
        return int(ratio.to_integral_value(ROUND_HALF_EVEN)) or (1 if ratio > 0 else -1)


MONEY_TEXTS = Units(Decimal(1) / MONEY)
"""Converts amounts of the quote asset, mark prices and rates to units of 1e-8."""


class Fields:
    """One JSON object.

    Args:
        kind: name of the object, for the errors.
        row: the decoded object.
    """

    def __init__(self, kind: str, row: object) -> None:
        if not isinstance(row, dict):
            raise DataError(f"{kind} must be an object, was {shown(row)}")
        self.kind = kind
        self.row: dict[str, Any] = row

    def error(self, name: str, rule: str) -> DataError:
        return DataError(f"{self.kind}.{name} {rule}, was {shown(self.row.get(name))}")

    def has(self, name: str) -> bool:
        """Whether the field has a value: not absent, null or empty."""
        return self.row.get(name) not in (None, "")

    def part(self, name: str) -> Fields:
        return Fields(f"{self.kind}.{name}", self.row.get(name))

    def parts(self, name: str) -> list[Fields]:
        rows = self.row.get(name)
        if not isinstance(rows, list):
            raise self.error(name, "must be a list")
        return [Fields(f"{self.kind}.{name}[{i}]", row) for i, row in enumerate(rows)]

    def text(self, name: str) -> str:
        value = self.row.get(name)
        if not isinstance(value, str):
            raise self.error(name, "must be a text")
        return value

    def integer(self, name: str, least: int = 0) -> int:
        value = self.row.get(name)
        if type(value) is not int or not least <= value <= 2**63 - 1:
            raise self.error(name, f"must be a whole number from {least}")
        return value

    def identifier(self, name: str) -> int:
        """Read an id that Binance writes as a text or a number; return 0 if it is empty."""
        value = self.row.get(name)
        if value in (None, ""):
            return 0
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
        return self.integer(name)

    def flag(self, name: str) -> bool:
        value = self.row.get(name)
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    def choice(self, name: str, choices: Mapping[str, Choice]) -> Choice:
        """Return the value of a text in `choices`."""
        value = self.row.get(name)
        if not isinstance(value, str) or value not in choices:
            raise self.error(name, f"must be one of {', '.join(choices)}")
        return choices[value]

    def one_of(self, name: str, choices: Iterable[str]) -> str:
        return self.choice(name, {choice: choice for choice in choices})

    def units(self, name: str, units: Units, least: int | None = 0) -> int:
        """Read a decimal text as whole units; with `least` None it may be negative."""
        try:
            count = units[self.row.get(name)]  # type: ignore[index]  # Units raises for anything but a text
        except TypeError:
            raise self.error(name, "must be a plain decimal text") from None
        except DataError as error:
            raise self.error(name, str(error)) from None
        if least is not None and count < least:
            raise self.error(name, "must be positive" if least == 1 else "must not be negative")
        return count

    def money(self, name: str) -> int:
        """Read an amount, which may be negative, in units of 1e-8."""
        return self.units(name, MONEY_TEXTS, None)

    def decimal(self, name: str) -> Decimal:
        """Read a decimal text of any precision."""
        text = self.text(name)
        if len(text) > _MAX_CHARACTERS or not _decimal_text(text):
            raise self.error(name, "must be a plain decimal text")
        return Decimal(text)


def shown(value: object) -> str:
    """Return the representation of a value, at most 60 characters long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def rows_of(kind: str, body: Any) -> list[Any]:
    """Return the rows of an answer that must be a list.

    Raises:
        DataError: it is none.
    """
    if not isinstance(body, list):
        raise DataError(f"{kind} must be a list")
    return body
