"""The worker and clock processes, and the operator's commands."""
