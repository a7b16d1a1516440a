"""Saved states of an order monitor from earlier versions, written as today's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voltrade.model import NEVER
from voltrade.order_states import DONE

_ROLES = ("stops", "take_profits", "exits")


def as_of_today(held: Mapping[str, Any], version: int) -> Mapping[str, Any]:
    """Return the position in hand that a version saved, with all that is saved today."""
    if version > 2:
        return held
    held = _from_version_1(held) if version == 1 else held
    again_at = held["position"]["retry_at"]
    new = {"stop_at": again_at, "exit_at": again_at, "target_at": NEVER, "target_tries": 0}
    orders = [{"told_at": 0, **order} for order in held["orders"]]
    return {**held, "position": {**held["position"], **new}, "orders": orders}


def _from_version_1(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the position in hand that version 1 saved: each order with its intent, by role."""
    orders = [_order(held["entry"], 1)]
    for role in _ROLES:
        orders += [_order(saved, count) for count, saved in enumerate(held[role], start=1)]
    same = ["id", "side", "stop_distance", "take_profit_distance", "opened_at", "entered", "entry_notional"]
    same += ["exit_notional", "realised", "fees", "funding", "exit_reason", "leave_reason", "retry_at", "stop_tries"]
    spent = (each["child_id"] and _is_done(each) for role in _ROLES[:2] for each in held[role])
    position = {
        **{name: held[name] for name in (*same, "exit_tries", "unprotected_since")},
        "bar": held["bar_number"],
        "exited": held["left"],
        "last_exit_time": held["left_at"],
        **{role: len(held[role]) for role in _ROLES},
        "stop_price": _newest_trigger(held["stops"]),
        "take_profit_price": _newest_trigger(held["take_profits"]),
        "stop_spent": any(spent),
        "is_closed": held["closed"],
    }
    trades = {name: held[name] for name in ("entry_trade_ids", "exit_trade_ids")}
    return {"position": position, "orders": orders, **trades}


def _order(saved: Mapping[str, Any], count: int) -> dict[str, Any]:
    intent = saved["intent"]
    asked = intent["order"]
    return {
        "id": asked["client_order_id"],
        "text": saved["text"],
        **{name: asked[name] for name in ("side", "quantity", "price", "trigger_price")},
        **{name: intent[name] for name in ("round_trip", "purpose", "time", "reason")},
        **{name: saved[name] for name in ("state", "filled", "reported", "code", "child_done", "look_at")},
        "bar": intent["bar_number"],
        "count": count,
        "order_id": saved["order_id"] or saved["child_id"],
        "is_foreign": saved["foreign"],
        "cancel_reason": "",
    }


def _is_done(saved: Mapping[str, Any]) -> bool:
    return bool(saved["foreign"] or saved["child_done"] or saved["state"] in DONE)


def _newest_trigger(saved: list[Mapping[str, Any]]) -> int:
    return int(saved[-1]["intent"]["order"]["trigger_price"]) if saved else 0
