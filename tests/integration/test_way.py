"""The way of one event is as short as it is meant to be, and as README draws it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_event_passes_few_files_and_those_of_the_picture_in_its_order() -> None:
    walked = subprocess.run(
        [sys.executable, "-m", "tests.support.way"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert walked.returncode == 0, walked.stdout + walked.stderr
    passed = re.findall(r"^(\S+)\.py:", walked.stdout, re.MULTILINE)
    picture = re.search(r"## The way of one event\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert picture
    drawn = re.findall(r"\b(?:receiver|handlers)/\w+/\w+", picture[1])
    assert len(drawn) >= 6
    assert drawn == [file for file in passed if file in drawn]
