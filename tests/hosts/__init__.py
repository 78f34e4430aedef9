"""The service on hosts of its own: their wires, servers and clocks fail, their costs: `make hosts`, `make costs`."""
