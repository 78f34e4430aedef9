"""The operator's half: signed-in users see what needs a hand, find a person, and mend."""
