"""The demo ends as it says, and as README shows it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

# The parts that differ from run to run: the mails' file names (the sessions' ids are in them) and the seconds.
VARIES = re.compile(r"[0-9a-f]{6}…|\d+\.\d s")


@pytest.mark.processes
def test_the_demo_ends_well_and_prints_what_readme_shows(tmp_path: Path) -> None:
    kept = tmp_path / "mails"
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo", str(kept)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    printed = _lines(done.stdout.replace(os.path.relpath(kept, ROOT), "var/demo"))
    named = set(re.findall(r"[0-9a-f]{6}(?=…)", done.stdout))
    assert named <= {path.name[:6] for path in kept.glob("*.eml")}
    assert len(list(kept.glob("*.eml"))) == 23
    assert [line for line in _lines(_shown()) if line not in (*printed, "…")] == []


def _shown() -> str:
    (shown,) = re.findall(r"make demo\n```.*?```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(shown)


def _lines(text: str) -> list[str]:
    return [VARIES.sub("", line).rstrip() for line in text.splitlines()]
