"""The person's half: pages that a link of ours leads to, where somebody goes in, waits, and comes back."""
