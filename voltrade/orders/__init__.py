"""Orders of an account and of its position: compiled rules, the arrays they work on, and what plain Python adds."""
