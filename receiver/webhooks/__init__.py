"""Deliveries: one request in, one committed row, one answer, and ids to the broker."""
