"""The common ground of inbox and outbox: claims, fences, and the outcome of a failed try."""
