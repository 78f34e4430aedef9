"""Sample files to be looked at: written below a folder, and counted."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from handlers.catalogue.check import check

Files = Iterable[tuple[str, bytes]]  # each a path below the folder, and its content


def folder_options(parser: argparse.ArgumentParser) -> None:
    """Adds the folder."""
    parser.add_argument("--to", metavar="DIR", required=True, type=Path, help="a folder, made where there is none")


def write_files(folder: Path, what: str, files: Files) -> int:
    """Writes the files, and prints how many .html are among them; 1 if one cannot be written. Asks no database."""
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
