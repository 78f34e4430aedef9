"""What the service does a second, measured beside its limits in one run: `make bench`."""
