"""Runs on the disk: their records, the account's ledger, replay and verification."""
