"""What inbox and outbox share: claims, fences, and what a failed try comes to."""
