"""The check of an exchange by real orders: places, protects, cancels and flattens the smallest order, row by row."""
