"""voltrade."""
