"""Figures of all processes: counted, added up, and shown."""
