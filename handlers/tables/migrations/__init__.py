"""Alembic's scripts; `python -m worker migrate` applies them."""
