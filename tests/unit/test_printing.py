"""A command's output is for a person or for machines."""

import os
import sys
from io import StringIO
from select import select

import pytest

from worker.commands.printing import print_rows, progress


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


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_too_narrow_for_a_table_shows_each_row_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    message_id = "<0123456789abcdef0123456789abcdef@example.com>"
    row = {"at": "noon", "message_id": message_id, "reason": None, "tries": 0}
    shown: dict[int, list[str]] = {}
    for columns in (40, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
        print_rows([row, row], list(row), "mails")
        shown[columns] = terminal.getvalue().splitlines()
    assert shown[40].count(f"message_id  {message_id}") == 2
    assert not any("reason" in line for line in shown[40])
    assert len([line for line in shown[120] if message_id in line and "noon" in line]) == 2
