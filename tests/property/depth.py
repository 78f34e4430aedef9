"""The depth of the proofs: a few seconds' worth in `make test`, everything in `make proof`."""

import os
from pathlib import Path

# The file for the figures of `make proof`; set by tests/property/proof.py alone.
FIGURES = os.environ.get("PROOF_FIGURES", "")
# Whether the first failing test is enough; set by tests/property/copies.py alone.
IS_MUTANT = bool(os.environ.get("PROOF_MUTANT"))


def depth(quick: int, full: int) -> int:
    """The number of tries: `quick` in `make test`, `full` in `make proof`."""
    return full if FIGURES else quick


def note(figure: str) -> None:
    """Writes a line for the end of `make proof`."""
    if FIGURES:
        with Path(FIGURES).open("a") as file:
            file.write(f"{figure}\n")
