"""A capture of `stripe listen --format JSON`, who the persons in it are, and what it must come to."""
