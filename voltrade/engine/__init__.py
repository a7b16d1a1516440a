"""The process of a session: its mode, checks before the start, warm-up, control socket and notifications."""
