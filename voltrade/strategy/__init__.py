"""Rules and parameters of one's own: files, their checks, and how they are loaded."""
