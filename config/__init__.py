"""What every process shares: settings, logs, the database, the broker."""

import sys

# structlog imports rich wherever it is installed, for tracebacks that config/logs.py does not use: ten megabytes of
# every process. What prints tables imports it for itself.
sys.modules["rich"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
import structlog  # noqa: E402, F401  # the one import that must come here

del sys.modules["rich"]
