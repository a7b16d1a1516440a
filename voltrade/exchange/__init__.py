"""Binance USD-M Futures itself: the ports that trading knows, REST, streams, messages and credentials."""
