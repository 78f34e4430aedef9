"""What may be owed: one row per kind of action, and each written down once per key."""
