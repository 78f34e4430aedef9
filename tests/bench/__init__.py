"""The service's figures, measured beside their limits in one run: `make bench`."""
