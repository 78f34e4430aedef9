"""What shows that it works, and what it stands on."""
