"""Whose turn an event is, and what one transaction does with it."""
