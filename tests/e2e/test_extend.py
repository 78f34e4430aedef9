"""The steps of docs/extend.md do not break the demo; `make test-extended` runs the tests in such a copy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.owed.kinds import KINDS
from tests.support.extended import extend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("alert_under_age" in KINDS, reason="this copy has followed the page already"),
]


def test_the_demo_of_who_follows_the_page_to_the_letter_passes(tmp_path: Path) -> None:
    extend(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.demo", "mails"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
