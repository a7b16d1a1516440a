"""Starts, follows and stops the engine from a notebook, and opens what a run left behind."""
