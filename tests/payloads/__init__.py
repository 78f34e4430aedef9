"""A capture of `stripe listen --format JSON`, the persons in it, and the end that it must come to."""
