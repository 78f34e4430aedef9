"""Wrong requests of every kind: the receiver answers, stores nothing it should not, and goes on: `make fuzz`."""
