"""The operator's commands: python -m worker COMMAND."""
