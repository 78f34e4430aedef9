"""Files that somebody may look at: written below a folder, and counted."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from handlers.catalogue.check import check

Files = Iterable[tuple[str, bytes]]  # a path below the folder, and what is in it


def options(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    parser.add_argument("--to", metavar="DIR", required=True, type=Path, help="a folder, made where there is none")


def write_files(folder: Path, what: str, files: Files) -> int:
    """Writes them, one .html for each of what is counted; 1 where that cannot be done. No database is asked."""
    check()
    written = 0
    try:
        for name, content in files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written += path.suffix == ".html"
    except OSError as error:
        print(f"Nothing more was written: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    print(f"{written} {what} are in {folder}")
    return 0
