"""docs/integrate.md and README say what is so: their blocks are typed as they stand, and answered as is shown."""

import re
import shlex
import shutil

import pytest

from receiver.api.problems import CODES
from tests.simulator.client import Simulator
from tests.support import databases, pages
from tests.support.servers import running_receiver
from worker.__main__ import parser

PAGE = (pages.ROOT / "docs/integrate.md").read_text()
STRIPE, SERVICE, READER = "First terminal, keeps running", "Second terminal, keeps running", "Third terminal"


@pytest.mark.usefixtures("database_url")
@pytest.mark.skipif(not shutil.which("curl"), reason="the page is for who has curl")
def test_what_is_typed_is_answered_as_the_page_shows(simulator: Simulator, environment: pytest.MonkeyPatch) -> None:
    typed = pages.blocks(PAGE)
    assert {block.terminal for block in typed} == {STRIPE, SERVICE, READER}
    [service] = [block for block in typed if block.terminal == SERVICE]
    for name, value in re.findall(r"^export (\w+)=(.*)$", service.commands, re.MULTILINE):
        environment.setenv(name, value)
    environment.setenv("STRIPE_API_BASE", simulator.base)
    environment.setenv("LINK_KEYS", "n" * 32)  # which whoever follows the page has in VAR_DIR
    databases.forget_process_state()
    with running_receiver() as port:
        here = {":8000": f":{port}", "import httpx": "import httpx2 as httpx"}
        pages.type_in_one_terminal([block for block in typed if block.terminal == READER], here)
        pages.run_python(PAGE, here)
        readme = [block for block in pages.blocks((pages.ROOT / "README.md").read_text()) if block.answer]
        for_one_of_its_own = {"user-1": "user-of-readme", "$IDENTITY_EVENTS": f"http://127.0.0.1:{port}"}
        pages.type_in_one_terminal(readme, for_one_of_its_own, TOKEN="not-a-secret-not-a-secret-not-a-secret")


def test_what_to_do_is_said_of_every_refusal() -> None:
    section = PAGE.partition("## What to do about a refusal")[2].partition("\n## ")[0]
    named = [
        code for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for code in re.findall("`(.*?)`", cell)
    ]
    assert sorted(named) == sorted(CODES)


@pytest.mark.parametrize("line", re.findall(r"`(python -m worker [^`]*)`", PAGE))
def test_every_command_that_the_page_names_is_one(line: str) -> None:
    parser().parse_args(shlex.split(line)[3:])
