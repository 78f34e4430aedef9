"""How far the proofs go: a few seconds' worth in `make test`, everything in `make proof`."""

import os
from pathlib import Path

# Where `make proof` collects its figures; set by tests/property/proof.py alone.
FIGURES = os.environ.get("PROOF_FIGURES", "")
# Whether it is enough to know that a test fails; set by tests/property/mutations.py alone.
IS_MUTANT = bool(os.environ.get("PROOF_MUTANT"))


def depth(quick: int, full: int) -> int:
    """How many of something to try."""
    return full if FIGURES else quick


def note(figure: str) -> None:
    """A line for the end of `make proof`."""
    if FIGURES:
        with Path(FIGURES).open("a") as file:
            file.write(f"{figure}\n")
