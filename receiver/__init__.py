"""The web process: one delivery in, one committed row, one answer."""
