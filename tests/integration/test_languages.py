"""The language of a person's mail, and that nothing starts that could not write one."""

import re
import subprocess
import sys
from email import message_from_bytes, policy
from email.message import Message
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlmodel import col

from config.database import database_now, transaction
from config.settings import settings
from handlers.outbox.perform import perform
from handlers.tables.models import Verification, VerificationRecord
from tests.support import databases, facts
from tests.support.operator import command
from tests.support.pseudo import write_words
from worker.run.foreground import PROCFILE

ROOT = Path(__file__).parents[2]


def _mail_about(session_id: str) -> "Message[str, str]":
    (action_id,) = facts.applied(facts.event("verified", session_id=session_id, report="vr_1"))
    perform(action_id)
    (path,) = (settings().var_dir / "mail").iterdir()
    return message_from_bytes(path.read_bytes(), policy=policy.default)


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize(("locale", "language"), [("de-AT", "de"), ("en-GB", "en"), ("fr", "en"), (None, "en")])
def test_a_mail_is_in_the_language_of_its_verification_if_there_is_one(
    locale: str | None, language: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    environment.setenv("SUPPORT_EMAIL", "Help <help@example.com>")
    databases.forget_process_state()
    facts.applied(facts.event("created"))
    now = database_now()
    with transaction() as session:
        session.add(
            Verification(id="idv_1", livemode=False, session_id="vs_1", locale=locale, created_at=now, updated_at=now)
        )
        session.connection().execute(
            update(VerificationRecord)
            .where(col(VerificationRecord.session_id) == "vs_1")
            .values(verification_id="idv_1")
        )
    mail = _mail_about("vs_1")
    assert mail["Content-Language"] == language
    assert mail["Reply-To"] == "Help <help@example.com>"
    assert ("Ihre Identität" in mail["Subject"]) == (language == "de")


@pytest.mark.usefixtures("database_url")
def test_a_session_that_was_opened_elsewhere_has_the_first_language(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    environment.setenv("LOCALES", "de,en")
    databases.forget_process_state()
    assert _mail_about("vs_1")["Content-Language"] == "de"


def test_every_mail_is_written_to_files_without_a_database(tmp_path: Path) -> None:
    write_words(tmp_path / "own", "ar")
    folder = tmp_path / "mails"
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    languages = {"LOCALES": "en,de,ar", "TEMPLATES_DIR": str(tmp_path / "own")}
    languages["RETRY_URL"] = "https://shop.example/{session_id}"
    said = command("mails", "--to", str(folder), DATABASE_URL=nowhere, **languages)
    assert (said.code, said.err) == (0, "")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert {f"{language}/email_verified.{form}" for language in ("en", "de", "ar") for form in ("eml", "html")} <= names
    assert "https://shop.example/vs_1Sample" in (folder / "ar" / "email_retry_prompt-abandoned.html").read_text()
    assert said.out == f"{len(names) // 2} mails are in {folder}\n"
    again = command("mails", "--to", str(folder / "en" / "email_verified.eml"), **languages)
    assert (again.code, again.err[:24]) == (1, "Nothing more was written")


def test_every_page_is_written_to_files_with_what_it_looks_like(tmp_path: Path) -> None:
    said = command("pages", "--to", str(tmp_path), DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    assert (said.code, said.err, said.out) == (0, "", f"{len(names)} pages are in {tmp_path}\n")
    assert {"en/todo.html", "de/todo-modal-consent_declined.html", "en/failed-document_expired.html"} <= names
    page = (tmp_path / "de" / "todo-modal-consent_declined.html").read_text()
    assert "<main>\n<section" in page
    (styles,) = re.findall(r'<link rel="stylesheet" href="([^"]+)">', page)
    assert (tmp_path / "de" / styles).read_text().startswith(":root {")
    again = command("pages", "--to", str(tmp_path / "en" / "todo.html"))
    assert (again.code, again.err[:24]) == (1, "Nothing more was written")


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "own" / "mails" / "email_verified.jinja"
    path.parent.mkdir(parents=True)
    path.write_text("{% if %}")
    return {"TEMPLATES_DIR": str(tmp_path / "own")}


SAID = "TEMPLATES_DIR: email_verified.jinja, line 1: Expected an expression, got 'end of statement block'\n"


def test_no_command_writes_mails_by_a_template_that_is_broken(broken: dict[str, str], tmp_path: Path) -> None:
    for words in (("mails", "--to", str(tmp_path / "mails")), ("run",)):
        said = command(*words, **broken)
        assert (said.code, said.err) == (2, SAID)
    assert not (tmp_path / "mails").exists()


def test_no_worker_begins_with_a_template_that_is_broken(
    broken: dict[str, str], environment: pytest.MonkeyPatch
) -> None:
    for name, text in broken.items():
        environment.setenv(name, text)
    (line,) = re.findall(r"^worker: *python -m (.+)$", PROCFILE.read_text(), re.MULTILINE)
    worker = subprocess.run(
        [sys.executable, "-m", *line.split()], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (worker.returncode, worker.stderr) == (1, SAID)


def test_no_web_process_begins_with_a_page_that_is_broken(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own" / "pages" / "verified.jinja"
    path.parent.mkdir(parents=True)
    path.write_text("{% if %}")
    environment.setenv("TEMPLATES_DIR", str(tmp_path / "own"))
    environment.setenv("STRIPE_API_KEY", "sk_test_made_up_for_tests")
    environment.setenv("LINK_KEYS", "of-the-links-of-tests-0123456789")
    web = subprocess.run(
        [sys.executable, "-m", "receiver"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (web.returncode, web.stderr) == (2, SAID.replace("email_verified", "verified"))


@pytest.mark.usefixtures("database_url")
def test_the_doctor_says_what_is_wrong_with_words_and_templates(broken: dict[str, str]) -> None:
    def words(**variables: str) -> list[tuple[str, str]]:
        found = command("doctor", "--json", **variables).json
        return [(one["level"], one["words"]) for one in found if one["what"] == "words"]

    assert ("FAIL", SAID.strip()) in words(**broken)
    good = words(BRAND_NAME="Us", SUPPORT_EMAIL="help@example.com")
    assert good == [("OK", "every mail and page can be written in en, de")]
    bare = words(MAIL_FROM="id@example.com")
    assert [level for level, _ in bare] == ["OK", "WARN", "WARN"]
    assert "example.com" in bare[1][1]
    assert words(LOCALES="en,xx")[0][0] == "FAIL"
