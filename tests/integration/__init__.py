"""Real databases, sockets and processes."""
