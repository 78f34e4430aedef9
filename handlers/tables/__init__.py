"""The schema on one page, and what brings a database to it."""
