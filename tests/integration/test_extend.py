"""The example of a new action works as it stands."""

import re
import shutil
import subprocess
import sys
from email import message_from_bytes, policy
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("config", "handlers", "tests")

APPLY_AND_PERFORM = """
from handlers.catalogue.check import check
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox.perform import perform
from handlers.record.events import parse
from handlers.tables.schema import migrate
from tests.support.shapes import event, session

check()
migrate()
verified = event("evt_1", "verified", 1795180000, session("vs_1", "verified", report="vr_1"))
redacted = event("evt_2", "redacted", 1795180060, session("vs_1", "verified", redaction="redacted"))
receive([parse(verified), parse(redacted)])
for action_id in process(["evt_1", "evt_2"]):
    perform(action_id)
"""


def test_the_example_of_a_new_action_sends_its_mail_about_a_person_who_is_forgotten(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("node_modules", "__pycache__")
        )
    page = (ROOT / "docs/extend.md").read_text()
    for path, change in re.findall(r"```diff\n--- (\S+)\n(.*?)```", page, re.DOTALL):
        _change(tmp_path / path, change)
    for path, content in re.findall(
        r"`(handlers/catalogue/templates/\S+)`[^\n]*:\n\n```\w+\n(.*?)```", page, re.DOTALL
    ):
        (tmp_path / path).write_text(content)

    environment = {"VAR_DIR": "var", "REVIEW_EMAIL": "review@example.com"}
    subprocess.run([sys.executable, "-c", APPLY_AND_PERFORM], cwd=tmp_path, env=environment, check=True)

    (mail,) = (tmp_path / "var" / "mail").glob("*.eml")
    message = message_from_bytes(mail.read_bytes(), policy=policy.default)
    assert (message["To"], message["Subject"]) == ("review@example.com", "Verified: vs_1")
    assert "has been verified" in message.get_body(("html",)).get_content()  # type: ignore[union-attr]  # it is there


def _change(path: Path, change: str) -> None:
    lines = change.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(before) == 1, f"the example does not fit {path.name} any more"
    path.write_text(text.replace(before, after))
