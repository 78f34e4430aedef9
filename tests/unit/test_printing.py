"""A command's output is for a person or for machines."""

import os
import sys
from select import select

import pytest

from worker.commands.printing import progress


@pytest.mark.parametrize("for_machines", [False, True])
def test_a_bar_is_for_a_person_at_a_terminal(monkeypatch: pytest.MonkeyPatch, for_machines: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = os.openpty()
    os.set_blocking(reader, False)
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(progress([[1]], "rows", 1, for_machines=for_machines)) == [[1]]
        monkeypatch.undo()
        if for_machines:
            with pytest.raises(BlockingIOError):
                os.read(reader, 1)
        else:
            shown = b""  # a terminal hands on in pieces
            while b"rows" not in shown and select([reader], [], [], 10)[0]:
                shown += os.read(reader, 65536)
            assert b"rows" in shown
    os.close(reader)
