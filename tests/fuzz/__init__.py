"""Whatever anybody sends, the receiver answers, stores nothing it should not, and goes on: `make fuzz`."""
