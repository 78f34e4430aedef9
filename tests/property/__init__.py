"""Proofs: what must hold for every order, number and timing of events."""
