"""What stories claim of a session, read from what it leaves behind: mostly the venue's own log, nothing of voltrade.

Times are ms of the venue's clock, quantities are coins.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from simulation.evidence import Evidence, Json, Request

ZERO = Decimal(0)
WORKS = ("NEW", "PARTIALLY_FILLED")


def holdings(evidence: Evidence) -> Iterator[tuple[int, Decimal, Decimal]]:
    """Yield (time, position, how much of it is covered) from each change on, in order.

    Untriggered stops and working reduce-only orders cover, on the side that closes.
    """
    position, stops, exits = ZERO, dict[int, tuple[str, Decimal]](), dict[int, tuple[str, Decimal]]()
    for row in evidence.truth:
        match row["kind"]:
            case "fill":
                position = Decimal(row["position"])
                if row["order_id"] in exits:
                    side, lots = exits[row["order_id"]]
                    exits[row["order_id"]] = (side, lots - Decimal(row["quantity"]))
            case "order" if row["reduce_only"] and row["status"] in WORKS:
                exits[row["order_id"]] = (row["side"], Decimal(row["quantity"]) - Decimal(row["filled"]))
            case "order":
                exits.pop(row["order_id"], None)
            case "algo" if row["status"] == "NEW" and "STOP" in row["type"]:
                lots = Decimal("Infinity") if row["close_position"] else Decimal(row["quantity"])
                stops[row["algo_id"]] = (row["side"], lots)
            case "algo":
                stops.pop(row["algo_id"], None)
            case _:
                continue
        closing = "SELL" if position > 0 else "BUY"
        covered = sum((lots for side, lots in [*stops.values(), *exits.values()] if side == closing), ZERO)
        yield row["time"], position, min(covered, abs(position))


def uncovered(evidence: Evidence) -> list[tuple[int, int]]:
    """Return the stretches (begin, end) in which some of the position was not covered."""
    found: list[tuple[int, int]] = []
    since = -1
    for time, position, covered in holdings(evidence):
        is_bare = covered < abs(position)
        if is_bare and since < 0:
            since = time
        elif not is_bare and since >= 0:
            found.append((since, time))
            since = -1
    return [*found, (since, evidence.judged)] if since >= 0 else found


def uncovered_s(evidence: Evidence) -> float:
    """Return the longest of them, in seconds in which REST could be used."""
    return max((_usable_ms(evidence, begin, end) / 1000 for begin, end in uncovered(evidence)), default=0.0)


def _usable_ms(evidence: Evidence, begin: int, end: int) -> int:
    return end - begin - sum(max(0, min(end, until) - max(begin, since)) for since, until in evidence.rest_down)


def position_at_end(evidence: Evidence) -> Decimal:
    return next((Decimal(row["position"]) for row in reversed(evidence.truth) if row["kind"] == "fill"), ZERO)


def open_at_end(evidence: Evidence) -> list[str]:
    """Return the names of the orders of both kinds that the exchange still has."""
    still: dict[tuple[str, int], str] = {}
    for row in evidence.of_kind("order", "algo"):
        number = (row["kind"], row["algo_id"] if row["kind"] == "algo" else row["order_id"])
        still.pop(number, None)
        if row["status"] in (*WORKS, "TRIGGERING"):
            still[number] = row["client_order_id"]
    left = {row["order_id"]: Decimal(row["quantity"]) for row in evidence.of_kind("order") if row["status"] == "NEW"}
    for row in evidence.of_kind("fill"):
        left[row["order_id"]] -= Decimal(row["quantity"])
    return [name for (kind, number), name in still.items() if kind == "algo" or left[number]]


def premise(holds: object, what: str) -> None:
    """State what a story needs to be about its case.

    Raises:
        ValueError: it does not hold: an error, where a claim that does not hold yet is expected.
    """
    if not holds:
        raise ValueError(f"the story is about {what}")


def ended(evidence: Evidence) -> bool:
    """Whether the session came to its end by itself, without any failure of the engine."""
    return evidence.lives[-1].how == "ended" and all(life.how != "failed" for life in evidence.lives)


def is_left_in_order(evidence: Evidence, within_s: float = 5.0) -> bool:
    """Whether the position was never bare for long, nothing is left at the exchange, and the session ended.

    Raises:
        AssertionError: says which of these does not hold.
    """
    assert uncovered_s(evidence) <= within_s, f"bare for {uncovered_s(evidence):.1f} s: {uncovered(evidence)}"
    assert position_at_end(evidence) == 0, f"{position_at_end(evidence)} left at the exchange"
    assert open_at_end(evidence) == []
    assert ended(evidence), evidence.lives
    return True


# --- what the engine did ----------------------------------------------------------------------------------------------


def entries(evidence: Evidence, begin: int = 0) -> list[int]:
    """Return when the venue took entries of ours, from a time on."""
    rows = (row for row in evidence.of_kind("order") if row["status"] == "NEW" and not row["reduce_only"])
    return [row["time"] for row in rows if row["client_order_id"].startswith("vt-") and row["time"] >= begin]


def placed(evidence: Evidence, kind: str, begin: int = 0) -> list[Json]:
    """Return the rows of conditional orders of a type that began, such as STOP_MARKET."""
    rows = (row for row in evidence.of_kind("algo") if row["status"] == "NEW" and row["type"] == kind)
    return [row for row in rows if row["time"] >= begin]


def fills(evidence: Evidence, purpose: str = "") -> list[Json]:
    """Return fills of orders of ours, of one purpose: e entry, x exit, s stop, t take-profit."""
    rows = [row for row in evidence.of_kind("fill") if row["client_order_id"].startswith("vt-")]
    return [row for row in rows if purpose in row["client_order_id"].rsplit("-", 1)[1]]


def questions(evidence: Evidence, path: str, begin: int = 0, end: int = 1 << 62) -> list[Request]:
    """Return the requests whose `GET /path` a text ends, sent in a span of time."""
    asked = (request for request in evidence.requests if begin <= request.sent < end)
    return [request for request in asked if f"{request.method} {request.path}".endswith(path)]


def refused(evidence: Evidence, code: int) -> list[Request]:
    """Return the requests that were answered with a code."""
    return [request for request in evidence.requests if request.code == code]


def alerts(evidence: Evidence, begin: int = 0) -> list[str]:
    """Return what people were told, as `CODE: text`."""
    rows = [row for journal in evidence.journals for row in journal if row.kind == "Alert" and row.time >= begin]
    return [f"{row.body['code']}: {row.body['text']}" for row in rows]


def halts(evidence: Evidence) -> list[str]:
    """Return why the breaker stopped, each time that it did."""
    rows = [row for journal in evidence.journals for row in journal if row.kind == "BreakerChange"]
    return [str(row.body) for row in rows if row.body.get("mode") == "HALTED"]


def round_trips(evidence: Evidence) -> list[Json]:
    return [row.body for journal in evidence.journals for row in journal if row.kind == "RoundTrip"]


def heaviest_minute(evidence: Evidence) -> int:
    """Return the most weight that the venue saw used within a minute."""
    return max((request.used_weight for request in evidence.requests), default=0)


def when(evidence: Evidence, seconds: float) -> int:
    """Return a moment of a story, seconds after the opening."""
    return evidence.opened + int(seconds * 1000)


def money(amount_e8: int) -> Decimal:
    """Return an amount as journals have it in the quote asset."""
    return Decimal(amount_e8) / 10**8


def wallet_change(evidence: Evidence) -> Decimal:
    """Return what the session has made, by the venue's books."""
    [start] = evidence.of_kind("start")
    last = next((row for row in reversed(evidence.truth) if row["kind"] in ("fill", "account")), start)
    return Decimal(last["wallet"]) - Decimal(start["wallet"])
