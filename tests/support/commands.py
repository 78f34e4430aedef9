"""Runs the operator's commands for tests: each in a process of its own, forked from one that has imported them already.

`python -m tests.support.commands` reads calls, a JSON document a line: words, environment, and the files for the
command's standard streams; a file without a name is a pipe without a reader. It answers each with the exit code.
Imports are most of the second that a command takes, and templates most of what the doctor takes.
"""

import gc
import json
import os
import sys

from jinja2 import Environment

from config.settings import settings
from handlers.catalogue.check import faults
from tests.support.templates import REMEMBERED, compiled_once
from worker.__main__ import main, parser


def serve() -> int:
    """Answers calls until its input ends; in a command's own process, returns the command's exit code."""
    _compile_templates()
    parser()  # imports all commands
    gc.freeze()  # else each command would copy all memory at its end, to look for cycles
    for call in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            return _command(**json.loads(call))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return 0


def _compile_templates() -> None:
    os.environ.clear()  # each command has settings of its own
    Environment.compile = compiled_once  # type: ignore[assignment, method-assign]
    faults()
    for remembered in (settings, *REMEMBERED):
        remembered.cache_clear()


def _command(words: list[str], environment: dict[str, str], files: list[str]) -> int:
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files):
        opened = os.open(file, os.O_RDWR) if file else _closed_pipe()
        os.dup2(opened, number)
        os.close(opened)
    sys.argv[1:] = words
    return main()


def _closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


if __name__ == "__main__":
    sys.exit(serve())
