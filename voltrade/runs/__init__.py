"""Runs on disk: what each was asked to do, the ledger of an account, replay and verification."""
