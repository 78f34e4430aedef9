"""The kinds of action that may be owed, one row each, and the writing of each action once per key."""
