"""Whole sessions under faults in virtual time: engine and venue in one process, drawn from a seed, judged by the venue's log."""
