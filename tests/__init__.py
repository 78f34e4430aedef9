"""The proofs that the service works, and their support."""
