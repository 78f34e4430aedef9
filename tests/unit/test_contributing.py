"""CONTRIBUTING, SECURITY and the decisions name only paths, targets, rooms and words that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
PAGES = (ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "docs" / "decisions" / "README.md", *DECISIONS)
PRODUCT = ("config", "receiver", "handlers", "worker")
TARGETS = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
_ROW = re.compile(r"^\| `([\w/]+)/` \| (.*) \|$", re.MULTILINE)
# A path in backticks, or as a word of a command.
_PATH = re.compile(r"(?<=[`= ])\.?[\w-]+(?:/[\w-]+)*(?:/|\.(?:py|md|json|toml|txt|ya?ml))(?=[` \n])")


def rooms(*roots: str) -> dict[str, str]:
    """Every package, and the sentence of its `__init__`."""
    found = [path for root in roots for path in (ROOT / root).rglob("__init__.py") if "node_modules" not in path.parts]
    docstrings = {name(path.parent): ast.get_docstring(ast.parse(path.read_text())) for path in found}
    return {room: (docstring or "").removesuffix(".") for room, docstring in docstrings.items()}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    named = [ROOT / path for path in _PATH.findall(page.read_text())]
    linked = [page.parent / path for path in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text())]
    assert [path for path in (*named, *linked) if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_target_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"(?:^|`)make ([a-z][a-z0-9-]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= TARGETS


def test_every_target_that_tests_or_measures_is_explained() -> None:
    rows = " ".join(re.findall(r"^\| `make .*", CONTRIBUTING, re.MULTILINE))
    assert set(re.findall(r"`make ([a-z0-9-]+)`", rows)) >= TARGETS - {
        "help",
        "install",
        "dev",
        "run",
        "listen",
        "stripe",
    }


def test_the_map_shows_every_room_with_the_sentence_of_its_package() -> None:
    assert dict(_ROW.findall(CONTRIBUTING)) == rooms(*PRODUCT, "tests")


def test_readme_shows_the_four_rooms_of_the_service() -> None:
    shown = dict(_ROW.findall((ROOT / "README.md").read_text()))
    assert shown == {room: words for room, words in rooms(*PRODUCT).items() if room in PRODUCT}


def test_every_word_of_the_glossary_is_one_of_the_code() -> None:
    code = " ".join(path.read_text() for root in PRODUCT for path in (ROOT / root).rglob("*.py"))
    spelled = code.lower().replace("_", " ")
    words = re.findall(r"\*\*([a-z ]+)\*\*", CONTRIBUTING.partition("## Words")[2])
    assert words
    assert [word for word in words if word not in spelled] == []


def test_the_index_lists_every_decision_by_its_title() -> None:
    listed = re.findall(r"^- \[(\d{4})\]\((\S+)\) (.+)$", (DECISIONS[0].parent / "README.md").read_text(), re.MULTILINE)
    titles = [page.read_text().partition("\n")[0].removeprefix("# ") for page in DECISIONS]
    assert [(file, f"{number} {title}") for number, file, title in listed] == [
        (page.name, title) for page, title in zip(DECISIONS, titles, strict=True)
    ]


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_a_decision_says_what_led_to_it_and_what_was_tried(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "What follows", "What was tried"]


def test_every_decision_that_the_code_names_is_there() -> None:
    code = [path.read_text() for root in PRODUCT for path in (ROOT / root).rglob("*.py")]
    named = {number for text in code for number in re.findall(r"docs/decisions/(\d{4})", text)}
    assert named
    assert named <= {page.name[:4] for page in DECISIONS}
