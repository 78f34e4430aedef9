"""README and the pages behind it are true about settings, commands and files."""

import json
import re
import shlex
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.settings import Address, Settings
from tests.bench.report import STORY
from worker.__main__ import parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TARGETS = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]
WORDS = 250  # as many as one reads in a minute


def test_readme_is_read_in_five_minutes() -> None:
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) <= 5 * WORDS


def test_readme_says_how_fast_in_the_words_that_the_bench_prints_and_with_the_figures_of_the_page() -> None:
    words = STORY.format(events=0, tasks=1).replace("0", r"[\d,]+").replace("1", r"[\d,]+")
    readme, page = (" ".join(text.split()) for text in (README, (ROOT / "docs/performance.md").read_text()))
    found = re.search(words, readme)
    assert found
    assert found[0] in page


def test_the_table_of_settings_is_complete_and_in_their_order() -> None:
    named = re.findall(r"^\| `([A-Z_]+)` \|", SETTINGS, re.MULTILINE)
    assert named == [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_default_in_the_table_is_the_default(name: str) -> None:
    default = Settings.model_fields[name].get_default(call_default_factory=True, validated_data={})
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, Address):
        default = f"{default.name} <{default.mailbox}>"
    if isinstance(default, tuple):
        default = ",".join(default)
    (cell,) = re.findall(rf"^\| `{name.upper()}` \| (.*?) \|", SETTINGS, re.MULTILINE)
    if default:
        assert cell == f"`{default}`"
    else:
        assert not re.fullmatch(r"`\w+`", cell), "the table names a default that is none"


def test_what_heroku_asks_for_is_a_setting() -> None:
    assert {*json.loads((ROOT / "app.json").read_text())["env"]} <= {name.upper() for name in Settings.model_fields}


_QUESTIONS = re.findall(r"^\| (.+[?:a-z]) \| (`python -m worker .*) \| (.+) \|$", OPERATIONS, re.MULTILINE)


def test_each_question_of_every_day_has_one_command_and_two_clicks_at_most() -> None:
    asked = [question.lower() for question, _, _ in _QUESTIONS]
    for word in (
        "mailed, when, why, and why twice?",
        "stuck?",
        "did the deploy work?",
        "refused?",
        "forget this person",
    ):
        assert any(word in one for one in asked), word
    for question, said, where in _QUESTIONS:
        [command] = re.findall(r"`python -m worker ([^`]*)`", said)
        parser().parse_args(shlex.split(command))
        for way in where.split("; "):
            assert way.count("**") <= 4, question


def _named(pattern: str) -> list[tuple[Path, str]]:
    return sorted({(page, found) for page in PAGES for found in re.findall(pattern, page.read_text(), re.MULTILINE)})


@pytest.mark.parametrize("target", sorted({name for _, name in _named(r"(?:^|`)make ([a-z][a-z0-9-]+)")}))
def test_every_target_that_a_page_names_is_there(target: str) -> None:
    assert target in TARGETS


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python -m worker")])
def test_every_command_that_readme_shows_is_one(line: str) -> None:
    parser().parse_args(shlex.split(line, comments=True)[3:])


@pytest.mark.parametrize(("page", "link"), _named(r"\]\(((?!http)[^)\s]+)\)"), ids=str)
def test_every_place_that_a_page_links_to_is_there(page: Path, link: str) -> None:
    path, _, heading = link.partition("#")
    linked = page.parent / path if path else page
    assert linked.exists()
    headings = re.findall(r"^##+ (.+)$", linked.read_text(), re.MULTILINE) if heading else []
    assert not heading or heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings]
