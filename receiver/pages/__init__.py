"""The person's half: pages that a link of ours leads to, where the person goes in, waits, and comes back."""
