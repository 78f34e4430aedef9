"""What needs no socket and no other process."""
