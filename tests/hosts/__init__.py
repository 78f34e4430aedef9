"""The service on hosts of its own, whose network, servers and clocks fail: `make hosts`."""
