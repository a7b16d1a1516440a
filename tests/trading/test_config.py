"""Settings: what can't be meant is refused by name before anything begins."""

from __future__ import annotations

import pytest

from voltrade.config import LEAST_SECONDS, Config, milliseconds
from voltrade.errors import ConfigError

NEVER_ZERO = ("order_stale_s", "resume_after_s")
MAY_BE_ZERO = ("max_holding_s", "cooldown_s", "duration_s", "begin_s", "fill_horizon_s")


def test_every_setting_in_seconds_is_among_those_below() -> None:
    names = {name for name in Config().parameters() if name.endswith("_s")}
    assert names == {*NEVER_ZERO, *MAY_BE_ZERO, "mark_interval_s"}  # the last one is in whole seconds


@pytest.mark.parametrize("name", [*NEVER_ZERO, *MAY_BE_ZERO])
@pytest.mark.parametrize("seconds", [0.0004, 1e-9, LEAST_SECONDS - 0.001])
def test_a_duration_too_short_to_wait_for_is_refused_by_name(name: str, seconds: float) -> None:
    """Fault case A7: what is due after no time at all is due for ever."""
    with pytest.raises(ConfigError, match=rf"^{name}: .*0\.1, was {seconds!r}$"):
        Config.from_parameters({name: seconds})
    with pytest.raises(ConfigError, match=f"^{name}: "):
        Config().changed(**{name: seconds})


@pytest.mark.parametrize("name", [*NEVER_ZERO, *MAY_BE_ZERO])
def test_the_shortest_duration_lasts_some_milliseconds(name: str) -> None:
    assert milliseconds(Config.from_parameters({name: LEAST_SECONDS}).parameters()[name]) == 100


def test_seconds_that_were_written_as_whole_milliseconds_are_those() -> None:
    """1.001 s is a little less than 1,001 ms to a computer."""
    for whole in (*range(100, 10_000), 10**12):
        assert milliseconds(whole / 1000) == whole


@pytest.mark.parametrize("name", MAY_BE_ZERO)
def test_zero_means_none(name: str) -> None:
    assert Config.from_parameters({name: 0.0}).parameters()[name] == 0


@pytest.mark.parametrize("name", ["rule", "tape", "confirmation", "symbol"])
def test_a_text_that_no_file_can_hold_is_refused_by_name(name: str) -> None:
    """Fault case F4, siblings: a file's name may have bytes that are no UTF-8."""
    with pytest.raises(ConfigError, match=f"^{name}: "):
        Config.from_parameters({name: "rules/M\udcfcller.py:Adx", "mode": "live"})


@pytest.mark.parametrize("speed", [120, 0.5, -1.0, 2])
def test_a_speed_that_no_tape_plays_at_is_refused_before_anything_starts(speed: float) -> None:
    """The session failed half a minute later, with a traceback and a folder."""
    with pytest.raises(ConfigError, match=rf"speed: must be 0 \(lockstep\) or 1 \(wall clock\), was {speed}"):
        Config.from_parameters(speed=speed)
