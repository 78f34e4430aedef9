"""Verifications of ours: one person, one purpose, and the sessions at Stripe behind it."""
