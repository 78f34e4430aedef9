"""Runs a Procfile's commands in the foreground: it prefixes their lines, and ends all of them together.

Not honcho: its patience begins when a first child has ended, so that it never kills children that all ignore SIGTERM,
and the processes by which it reads the lines outlive a parent that is killed.
"""

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import cycle
from types import FrameType

PATIENCE = 25.0  # seconds from SIGTERM to SIGKILL: a platform gives its only process, us, thirty
COLOURS = (36, 33, 35, 32)  # cyan, yellow, magenta, green

# Stands before a child's command: a killed parent takes its children along (PR_SET_PDEATHSIG, SIGTERM). A preexec_fn
# would do the same, but Python 3.12 warns of it. Linux only; elsewhere the next start ends a leftover Redis.
_PRCTL = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
DYING_WITH_PARENT = [sys.executable, "-ISc", _PRCTL] if sys.platform == "linux" else []


def supervise(commands: Mapping[str, str], variables: Mapping[str, str]) -> int:
    """Runs shell commands by name until a signal (0) or until one of them ends (its exit code, never 0)."""
    asked = _Asked()
    prefixes = _prefixes(list(commands))
    children = [_Child(prefixes[name], command, variables) for name, command in commands.items()]
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.pipe, selectors.EVENT_READ, child)
        while not asked.times and all(child.runs() for child in children):
            _print_lines(selector)
        code = 0 if asked.times else next(child.exit_code() for child in children if not child.runs())
        _stop(children, asked, selector)
    return code


class _Asked:
    """Counts how often Ctrl-C or SIGTERM asked for the end."""

    def __init__(self) -> None:
        self.times = 0
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.times += 1


class _Child:
    def __init__(self, prefix: bytes, command: str, variables: Mapping[str, str]) -> None:
        self.prefix = prefix
        self.rest = b""
        settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
        here = shlex.quote(os.path.dirname(sys.executable))  # the commands say `python`, and mean ours
        self.pipe, output = os.pipe()
        self.process = subprocess.Popen(
            [*DYING_WITH_PARENT, "/bin/sh", "-c", f'export PATH={here}:"$PATH" {settings}; exec {command}'],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and the child's group can be killed as one
        )
        os.close(output)

    def runs(self) -> bool:
        return self.process.poll() is None

    def exit_code(self) -> int:
        code = self.process.returncode
        return code if code > 0 else 128 - code if code < 0 else 1

    def send(self, number: int) -> None:
        if self.runs():
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kills the child and the processes that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def _stop(children: list[_Child], asked: _Asked, selector: selectors.BaseSelector) -> None:
    asked_before = max(asked.times, 1)  # at most one request has brought us here
    deadline = time.monotonic() + PATIENCE
    for child in children:
        child.send(signal.SIGTERM)
    while any(child.runs() for child in children) and time.monotonic() < deadline and asked.times <= asked_before:
        _print_lines(selector)
    for child in children:
        child.kill()
        child.process.wait()
    while selector.get_map() and _print_lines(selector):
        pass


def _print_lines(selector: selectors.BaseSelector) -> bool:
    """Prints the lines that arrive within a moment. True if any did."""
    ready = selector.select(timeout=0.1)
    for key, _ in ready:
        child: _Child = key.data
        piece = os.read(child.pipe, 65536)
        if not piece:
            selector.unregister(child.pipe)
        *lines, child.rest = (child.rest + (piece or b"\n" * bool(child.rest))).split(b"\n")
        for line in lines:
            sys.stdout.buffer.write(child.prefix + line + b"\n")
    sys.stdout.buffer.flush()
    return bool(ready)


def _prefixes(names: list[str]) -> dict[str, bytes]:
    width = max(map(len, names))
    texts = {name: f"{name:<{width}} | " for name in names}
    if sys.stdout.isatty():
        texts = {
            name: f"\033[{colour}m{texts[name]}\033[0m" for name, colour in zip(names, cycle(COLOURS), strict=False)
        }
    return {name: text.encode() for name, text in texts.items()}
