"""The simulated exchange served over Binance's own REST and websockets, on loopback."""
