"""Proofs of the rules for every order, number and timing of events."""
