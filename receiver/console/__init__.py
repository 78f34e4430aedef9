"""The operator's half: who signs in sees what needs a hand, finds a person, and mends."""
