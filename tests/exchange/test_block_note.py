"""What a process knows of a pause that an earlier one of its run was told."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from voltrade.exchange.binance import DEMO, connect
from voltrade.exchange.block_note import LONGEST_MS, NAME, BlockNote
from voltrade.exchange.client import UsdmExchange

NOW, DAY_MS = 1_700_000_000_000, 86_400_000
READING = "https://x/fapi/v3/account"


def a_client(folder: Path, now: int, ahead_ms: int = 0) -> UsdmExchange:
    """Return the client of a process that was started at a time, and whose clock is ahead of the machine's."""
    exchange = connect(DEMO, None, lambda: now + ahead_ms, 5_000)
    exchange.keep_block(BlockNote(folder, lambda: now))
    return exchange


@pytest.mark.parametrize(
    ("noted", "for_ms", "left"),
    [
        pytest.param(NOW, 20_000, (20_000, 2), id="fresh"),
        pytest.param(NOW - 19_999, 20_000, (1, 2), id="nearly over"),
        pytest.param(NOW - 20_000, 20_000, (0, 0), id="over"),
        pytest.param(NOW - DAY_MS, 20_000, (0, 0), id="long over"),
        pytest.param(NOW + 1, 20_000, (0, 0), id="from the future"),
        pytest.param(NOW, LONGEST_MS, (3 * DAY_MS, 2), id="the longest ban"),
        pytest.param(NOW, LONGEST_MS + 1, (0, 0), id="longer than any ban"),
        pytest.param(NOW, 0, (0, 0), id="no pause"),
    ],
)
def test_a_note_counts_between_its_begin_and_its_end(
    noted: int, for_ms: int, left: tuple[int, int], tmp_path: Path
) -> None:
    BlockNote(tmp_path, lambda: noted).write(for_ms, 2)
    assert BlockNote(tmp_path, lambda: NOW).read() == left


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x00" * 40, b"{", b"[]", b"7", b"null", b"\xff\xfe"),
        *(b'{"noted": 1700000000000, "for_ms": 20000}', b'{"noted": 1700000000000, "for_ms": "20000", "unsaid": 0}'),
        *(
            b'{"noted": 1700000000000, "for_ms": 2e4, "unsaid": 0}',
            b'{"noted": 1700000000000, "for_ms": 9, "unsaid": -9}',
        ),
        b'{"noted": true, "for_ms": 1700000000000, "unsaid": 0}',
    ],
)
def test_a_garbled_note_is_ignored_and_told(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert BlockNote(tmp_path, lambda: NOW).read() == (0, 0)
    assert re.search(rf"{NAME}: the pause can't be read", caplog.text)


def test_nothing_is_told_where_there_is_no_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert BlockNote(tmp_path).read() == (0, 0)
    assert caplog.text == ""


def test_a_disk_that_takes_no_note_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exchange = a_client(tmp_path / "gone", NOW)
    exchange._update_limits(429, READING, {"Retry-After": "20"}, "")
    assert exchange.blocked_until == NOW + 20_000
    assert "the pause can't be noted" in caplog.text


def test_the_next_process_keeps_a_pause_by_the_time_of_the_machine(tmp_path: Path) -> None:
    """One was corrected by an hour, since the machine's clock is wrong; the next one does not know of that yet."""
    a_client(tmp_path, NOW, ahead_ms=-3_600_000)._update_limits(418, READING, {"Retry-After": "120"}, "")
    assert a_client(tmp_path, NOW + 50_000).blocked_until == NOW + 120_000
    assert a_client(tmp_path, NOW + 120_000).blocked_until == 0


def test_a_longer_pause_is_noted_and_a_shorter_one_is_not(tmp_path: Path) -> None:
    exchange = a_client(tmp_path, NOW)
    noted = []
    for seconds in (20, 10, 30):
        exchange._update_limits(429, READING, {"Retry-After": f"{seconds}"}, "")
        noted.append(json.loads((tmp_path / NAME).read_text())["for_ms"])
    assert noted == [20_000, 20_000, 30_000]


def test_pauses_that_are_not_told_go_on_growing_in_the_next_process(tmp_path: Path) -> None:
    """Each is killed in its pause, and the next one asks as soon as that is over; one that comes later begins anew."""
    times, pauses = [NOW], []
    for _ in range(4):
        exchange = connect(DEMO, None, lambda: times[-1], 5_000)
        exchange.keep_block(BlockNote(tmp_path, lambda: times[-1]))
        times.append(max(times[-1], exchange.blocked_until))
        exchange._update_limits(429, READING, {}, "")
        pauses.append(exchange.blocked_until - times[-1])
        times.append(times[-1] + 1_000)
    now = times[-1]
    later = a_client(tmp_path, now + DAY_MS)
    later._update_limits(429, READING, {}, "")
    assert pauses == [5_000, 10_000, 20_000, 40_000]
    assert later.blocked_until == now + DAY_MS + 5_000
