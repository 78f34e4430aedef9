"""Imported before anything else of the web process: the Stripe SDK without an HTTP client.

It imports requests wherever it is installed; here it only verifies signatures, and five megabytes are saved.
"""

import sys

sys.modules["requests"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
import stripe  # noqa: E402, F401

del sys.modules["requests"]
