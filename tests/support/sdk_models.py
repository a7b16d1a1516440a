"""Keys of a message against the official SDK's model of it: what it lacks, and what it has besides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel


def key_differences(model: Any, where: str) -> Iterator[str]:
    """Yield the keys that a message lacks and those that its model has not; a null counts as lacking.

    Args:
        model: what the SDK's `from_dict` made of the message, or a list of such.
        where: how to name the message.
    """
    model = getattr(model, "actual_instance", None) or model
    if isinstance(model, list):
        for row in model:
            yield from key_differences(row, f"{where}[]")
    elif isinstance(model, BaseModel):
        yield from (f"{where}.{name} is not there" for name in getattr(model, "additional_properties", ()))
        for name, field in type(model).model_fields.items():
            value, key = getattr(model, name), field.alias or name
            if name != "additional_properties" and value is None:
                yield f"{where}.{key} is missing"
            yield from key_differences(value, f"{where}.{key}")
