"""The example of a new action works as it stands."""

import shutil
import subprocess
import sys
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from handlers.owed.kinds import KINDS
from tests.support.extended import extend

APPLY_AND_PERFORM = """
from handlers.catalogue.check import faults
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox.perform import perform
from handlers.record.events import parse
from handlers.tables.schema import migrate
from tests.support.shapes import event, session

assert faults() == []
migrate()
failed = event("evt_1", "requires_input", 1795180000, session("vs_1", "requires_input", code="under_supported_age"))
redacted = event("evt_2", "redacted", 1795180060, session("vs_1", "requires_input", redaction="redacted"))
receive([parse(failed), parse(redacted)])
for action_id in process(["evt_1", "evt_2"]):
    perform(action_id)
"""


@pytest.mark.skipif(not shutil.which("git"), reason="the page is for who has git")
@pytest.mark.skipif("alert_under_age" in KINDS, reason="this copy has followed the page already")
def test_the_example_of_a_new_action_sends_its_mail_about_a_person_who_is_forgotten(tmp_path: Path) -> None:
    extend(tmp_path)

    environment = {"VAR_DIR": "var", "REVIEW_EMAIL": "review@example.com"}
    subprocess.run([sys.executable, "-c", APPLY_AND_PERFORM], cwd=tmp_path, env=environment, check=True)

    (mail,) = (tmp_path / "var" / "mail").glob("*.eml")
    message = message_from_bytes(mail.read_bytes(), policy=policy.default)
    assert (message["To"], message["Subject"]) == ("review@example.com", "Under age: vs_1")
    assert "below the age" in message.get_body(("html",)).get_content()  # type: ignore[union-attr]  # it is there
