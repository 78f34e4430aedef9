"""Tests without a socket or another process."""
