"""The turn of each event, and the one transaction that applies it."""
