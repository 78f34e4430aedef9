"""Shared by every process: settings, logs, the database, the broker."""
