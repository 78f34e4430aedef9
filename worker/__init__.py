"""The worker and clock processes, and the operator's commands."""

import config  # noqa: F401  # before anything here imports structlog: see there
