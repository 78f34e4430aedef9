"""The steps of docs/extend.md break nothing: the demo and the tests pass in a copy that has followed them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.extended import extend

pytestmark = pytest.mark.e2e
# The tests of owed actions, of their rights, and of the words of mails.
SUITE = (
    "tests/unit",
    "tests/property/test_orders.py",
    *(
        f"tests/integration/test_{name}.py"
        for name in ("languages", "review", "redaction", "outbox", "way", "told", "app_callback", "side_by_side")
    ),
)


@pytest.mark.parametrize(
    "words",
    [("tests.demo", "mails"), ("pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *SUITE)],
    ids=["demo", "suite"],
)
def test_what_follows_the_page_to_the_letter_passes(tmp_path: Path, words: tuple[str, ...]) -> None:
    extend(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
