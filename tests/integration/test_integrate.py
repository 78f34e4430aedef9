"""The pages about integrating, and README, are true: their blocks run, and are answered, as they stand."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.record.error_codes import CLASSES, OWED, ErrorClass
from receiver.api.problems import CODES
from tests.simulator.client import Simulator
from tests.support import databases, pages
from tests.support.servers import running_receiver
from worker.__main__ import parser

SERVER, WEB, NATIVE, CODES_PAGE, TROUBLE = (
    (pages.ROOT / f"docs/{name}.md").read_text()
    for name in ("integrate", "integrate-web", "integrate-native", "codes", "troubleshooting")
)
STRIPE, SERVICE, READER = "First terminal, keeps running", "Second terminal, keeps running", "Third terminal"
SHOP = "Fourth terminal, keeps running"


@pytest.mark.usefixtures("database_url")
@pytest.mark.skipif(not shutil.which("curl"), reason="the page is for who has curl")
def test_what_is_typed_is_answered_as_the_pages_show(
    simulator: Simulator, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed = [block for page in (SERVER, WEB, NATIVE) for block in pages.blocks(page)]
    assert {block.terminal for block in typed} == {STRIPE, SERVICE, READER, SHOP}
    [service] = [block for block in typed if block.terminal == SERVICE]
    for name, value in re.findall(r"^export (\w+)=(.*)$", service.commands, re.MULTILINE):
        environment.setenv(name, value)
    environment.setenv("STRIPE_API_BASE", simulator.base)
    environment.setenv("LINK_KEYS", "n" * 32)  # a reader of the page has them in VAR_DIR
    databases.forget_process_state()
    with running_receiver() as port:
        here = {":8000": f":{port}", **pages.HTTPX}
        pages.type_in_one_terminal([block for block in typed if block.terminal == READER], here)
        pages.run_python(SERVER, here, tmp_path)
        readme = [block for block in pages.blocks((pages.ROOT / "README.md").read_text()) if block.answer]
        for_one_of_its_own = {"user-1": "user-of-readme", "$IDENTITY_EVENTS": f"http://127.0.0.1:{port}"}
        pages.type_in_one_terminal(readme, for_one_of_its_own, TOKEN="not-a-secret-not-a-secret-not-a-secret")
    on_the_web_and_in_the_app = [
        one for one in simulator.truth()["sessions"] if one["client_reference_id"] == "user-10"
    ]
    assert len(on_the_web_and_in_the_app) == 1


def test_its_python_is_typed(tmp_path: Path) -> None:
    written = pages.write_files(SERVER + WEB, pages.HTTPX, tmp_path)
    python = sorted(path.name for path in written if path.suffix == ".py")
    assert python == ["backend.py", "identity.py"]
    cache = str(pages.ROOT / ".mypy_cache" / "of-pages")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", cache, *python]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _rows(page: str, heading: str) -> list[list[str]]:
    """The cells of a section's table."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [line.split(" | ") for line in lines[1:]]


def _codes(cell: str) -> list[str]:
    return re.findall("`(.*?)`", cell)


def test_each_code_of_stripes_has_its_class_and_what_is_owed_for_it() -> None:
    *named, (other, class_, _, does) = _rows(CODES_PAGE, "Stripe's, of a session")
    assert [(code, class_, does) for code, class_, _, does in named] == [
        (f"`{code}`", f"`{found}`", f"`{OWED[found]}`") for code, found in CLASSES.items()
    ]
    assert (other, class_, does) == ("any other", f"`{ErrorClass.RETRY}`", f"`{OWED[ErrorClass.RETRY]}`")


def test_the_codes_of_the_dialog_are_those_that_our_own_page_has_words_for() -> None:
    words = (pages.ROOT / "handlers/catalogue/templates/pages/enter.jinja").read_text()
    known = {*re.findall(r'data-problem="(\w+)"', words)} - {"offline", "away", "busy"}  # the page's own
    script = (pages.ROOT / "receiver/pages/static/verify.js").read_text()
    closed = re.findall(r'"(\w+)"', re.findall(r"CLOSED = \[(.*)\]", script)[0])
    rows = _rows(CODES_PAGE, "Stripe's dialog")
    assert {code for cell, *_ in rows for code in _codes(cell)} == {*known, closed[0]}
    assert all(f"`{code}`" in CODES_PAGE for code in closed)


def test_what_to_do_is_said_of_every_refusal() -> None:
    rows = _rows(CODES_PAGE, "This service's, to your server")
    assert sorted(code for cell, _ in rows for code in _codes(cell)) == sorted(CODES)


@pytest.mark.parametrize(
    "line", re.findall(r"`(python -m worker [^`]*)`", SERVER + WEB + NATIVE + CODES_PAGE + TROUBLE)
)
def test_every_command_that_a_page_names_is_one(line: str) -> None:
    parser().parse_args(shlex.split(line)[3:])
