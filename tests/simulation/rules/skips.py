"""Enters on every second bar: it overrides `on_volume_bar` to skip the others."""

from voltrade.signal_engine import SignalEngine


class Skips(SignalEngine):
    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        return 1

    def on_volume_bar(self, bar):
        signal = super().on_volume_bar(bar)
        return signal if signal is not None and signal.bar_number % 2 == 0 else None
