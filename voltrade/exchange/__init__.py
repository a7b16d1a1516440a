"""Binance USD-M Futures: REST, streams, messages, credentials, and the interfaces that trading uses."""
