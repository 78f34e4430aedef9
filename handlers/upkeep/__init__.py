"""Repairs by schedule or command: events that never arrived, sessions that differ, rows that may go."""
