"""A user's own rules and parameters in files: loading, saving and checking them."""
