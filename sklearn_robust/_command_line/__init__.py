"""What `python -m sklearn_robust` does, with and without a table of one's own."""
