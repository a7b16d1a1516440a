"""What notebooks use: sessions, the explorer, the review, rule cells and papermill's engine."""
