"""Histories of trades: fetched, checked, stored, made from a seed, and read as a tape."""
