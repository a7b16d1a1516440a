"""Enters on bars of the day by their number, always long, or long and short in turn."""

from voltrade.config import SignalSettings
from voltrade.signal_engine import SignalEngine


class Settings(SignalSettings):
    first_bar: int = 0
    every: int = 1
    both_sides: bool = False


class Buys(SignalEngine):
    settings_type = Settings

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        if bar.number < settings.first_bar or bar.number % settings.every != 0:
            return 0
        if settings.both_sides and (bar.number // settings.every) % 2 == 1:
            return -1
        return 1
