"""A person's pages and steps, in a real browser: `make test-browser`."""
