"""Every proof at full depth, on SQLite and on PostgreSQL, and its figures: `python -m tests.property.proof`."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ON_A_DATABASE = (
    "--timeout=0",  # at full depth one test takes many minutes
    "tests/property/test_state_machine.py",
    "tests/property/test_opening_machine.py",
    "tests/integration/test_concurrency.py",
)
STEPS = {
    "every order of every life cycle": ("-m", "tests.property.orders"),
    "the last mail says what the record says": ("-m", "tests.property.settled"),
    "anything in any succession, on SQLite": ("-m", "pytest", "-q", *ON_A_DATABASE),
    "anything in any succession, on PostgreSQL": ("-m", "tests.support.postgres", "-q", *ON_A_DATABASE),
    "every rule broken once": ("-m", "tests.property.mutations"),
}


def main() -> int:
    """Returns the first exit code that is not 0, or 0."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("r", prefix="figures-") as figures:
        for name, arguments in STEPS.items():
            print(f"\n== {name} ({time.monotonic() - started:.0f} s)", flush=True)
            code = subprocess.call([sys.executable, *arguments], env=_environment(name, figures.name))
            if code:
                print(f"Not proved: {name}", file=sys.stderr)
                return code
        print(f"\n== all agree ({time.monotonic() - started:.0f} s)\n{Path(figures.name).read_text()}", end="")
    return 0


def _environment(name: str, figures: str) -> dict[str, str]:
    kept = ("DATABASE_URL",) if "PostgreSQL" in name else ()
    ours = {key: value for key, value in os.environ.items() if key != "DATABASE_URL" or key in kept}
    return {**ours, "PROOF_FIGURES": figures}


if __name__ == "__main__":
    sys.exit(main())
