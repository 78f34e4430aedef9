"""Everything together on one machine, in the foreground."""
