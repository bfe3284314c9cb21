"""Attacks: for linear models the strongest one has a closed form."""
