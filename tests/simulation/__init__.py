"""Whole sessions under faults in virtual time: engine and venue in one process, one seed, judged by the venue's log."""
