"""The rules of the house: imports between rooms, owners of libraries, the beginning of each file, and of a comment."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from config.settings import Settings
from handlers.outbox.mails import to_the_reviewer
from handlers.outbox.registry import REGISTRY
from handlers.owed.kinds import KINDS
from handlers.tables.models import InboxEvent, OutboxAction
from worker.app import celery_app
from worker.clock import timetable

ROOT = Path(__file__).parents[2]
PACKAGES = ("config", "receiver", "handlers", "worker")
MAY_IMPORT = {
    "config": {"config"},
    "handlers": {"handlers", "config"},
    "receiver": {"receiver", "handlers", "config"},
    "worker": {"worker", "handlers", "config"},
}
OWNERS = {
    "asyncpg": ("receiver/webhooks/storage.py",),
    "starlette": ("receiver/",),
    "uvicorn": ("receiver/__main__.py", "receiver/connections.py"),
    "httptools": ("receiver/connections.py",),
    "celery": ("worker/",),
    "kombu": ("config/broker.py", "worker/foreign.py"),
    "stripe": (
        "receiver/webhooks/delivery.py",
        "handlers/stripe_api/",
        "worker/commands/replay.py",
    ),
    "urllib3": ("handlers/queue/calls.py",),
    "certifi": ("handlers/queue/calls.py",),
    "smtplib": ("handlers/outbox/smtp.py",),
    "jinja2": ("handlers/catalogue/",),
    "babel": ("handlers/catalogue/",),
    "itsdangerous": ("handlers/sessions/links.py", "receiver/console/"),
    "limits": ("receiver/pages/", "receiver/console/"),
    "redis": ("worker/run/broker.py",),
    "pydantic_settings": ("config/settings.py",),
    "alembic": ("handlers/tables/schema.py", "handlers/tables/migrations/"),
    "cryptography": ("handlers/outbox/outputs.py",),
    "prometheus_client": ("handlers/metrics/",),
    "sentry_sdk": ("config/sentry.py",),
    "standardwebhooks": ("handlers/outbox/application.py",),
}
# The same thing on several doors: a process's beginning, a room that receiver/app opens, a module's own log, and a
# value with its description in /openapi.json, which shows the class's name.
_IN_SEVERAL = {"main", "Room", "log", "Entry", "Fault", "Link", "Opened", "Verification"}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
_PRONOUN = r"(?i:what|who(?:ever|se|m)?|whatever|that)\b"
_CLAUSE = re.compile(rf"(?:^|[.:;] (?=[A-Z])){_PRONOUN}")
_MAYBE = re.compile(
    rf'(?m)(?:^ *(?:# )?|# (?:rule: )?|"""|[.:;] (?=[A-Z])){_PRONOUN}'
)  # parsing all files takes seconds


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_one_way(path: Path) -> None:
    allowed = MAY_IMPORT[_name(path).split("/")[0]]
    ours = {name.split(".")[0] for name in _imports(path)} & {*PACKAGES, "tests"}
    assert ours <= allowed


def test_handlers_do_not_know_how_work_travels() -> None:
    for path in (ROOT / "handlers").rglob("*.py"):
        assert not any(name.startswith("config.broker") for name in _imports(path)), _name(path)


@pytest.mark.parametrize(("room", "other"), [("inbox", "outbox"), ("outbox", "inbox")])
def test_inbox_and_outbox_never_import_each_other(room: str, other: str) -> None:
    for path in (ROOT / "handlers" / room).rglob("*.py"):
        assert not any(name.startswith(f"handlers.{other}.") for name in _imports(path)), _name(path)


def test_each_queue_says_by_itself_how_it_differs() -> None:
    """No comparison with a table of the two, no test for its class, and no dict by table."""
    table = "(InboxEvent|OutboxAction)"
    asks = re.compile(
        rf"\b(is|is not|==|!=) {table}\b|(isinstance|issubclass)\([^)]*{table}|(?m:[{{,]|^) *{table}: |dict\[Table\b"
    )
    assert [f"{_name(path)}: {said[0]}" for path in FILES for said in asks.finditer(path.read_text())] == []


def test_every_kind_of_action_has_a_row_and_a_function() -> None:
    assert REGISTRY.keys() == KINDS.keys()
    assert [REGISTRY[name] is to_the_reviewer for name in KINDS] == [kind.is_alert for kind in KINDS.values()]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_action_is_known_by_its_name(path: Path) -> None:
    """Its row in KINDS says all that it may do: nobody compares its name. It is named by who owes or performs it."""
    names = [
        name.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        for part in (node.left, *node.comparators)
        for name in (part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part])
        if isinstance(name, ast.Constant) and name.value in KINDS
    ]
    assert names == []


def test_what_an_event_means_is_pure() -> None:
    allowed = ("handlers.record", "handlers.owed.kinds")
    for path in (ROOT / "handlers" / "record").glob("*.py"):
        ours = [imported for imported in _imports(path) if imported.split(".")[0] in PACKAGES]
        assert all(imported.startswith(allowed) for imported in ours)


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_one_owner(library: str) -> None:
    users = [_name(path) for path in FILES if any(name.split(".")[0] == library for name in _imports(path))]
    assert users, f"nobody uses {library}"
    assert [user for user in users if not user.startswith(OWNERS[library])] == []


def test_the_environment_is_read_in_one_file() -> None:
    reads = re.compile(r"\bos\.(environb?|getenv)\b|from os import .*\b(environ|getenv)\b")
    assert [_name(path) for path in FILES if reads.search(path.read_text())] == ["config/settings.py"]


def test_a_hosts_own_clock_is_read_in_one_file() -> None:
    reads = re.compile(r"\b(datetime\.(now|utcnow|today)|time\.time(_ns)?|func\.(now|current_timestamp))\b")
    assert [_name(path) for path in FILES if reads.search(path.read_text())] == ["config/database.py"]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_stand_at_the_top(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    inside = [
        node for function in functions for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert inside == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_says_its_duty(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_public_function_says_what_it_is_for(path: Path) -> None:
    if "migrations/versions" in _name(path):
        return
    silent = [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_no_comment_begins_with_a_clause(package: str) -> None:
    found = [(path, _clauses(path.read_text())) for path in (ROOT / package).rglob("*.py")]
    assert [f"{_name(path)}: {clause}" for path, clauses in found for clause in clauses] == []


@pytest.mark.parametrize(
    "source",
    [
        "# What was tried is not tried again.",
        "a = 1  # who is late",
        "# rule: whatever has ended is not claimed; else it would go on",
        "# A row that has ended.\n# rule: that has ended",
        "# A row ends. Whoever\n# comes late is fenced.",
        '"""Whose turn it is."""',
        'def f():\n    """The turn.\n\n    That is of an event.\n    """',
    ],
)
def test_a_comment_that_begins_with_a_clause_is_noticed(source: str) -> None:
    assert len(_clauses(source)) == 1


@pytest.mark.parametrize("source", ["# A worker\n# who is late is fenced: what it wrote is lost.", "a = '# What'"])
def test_a_clause_within_a_comment_is_none_at_its_beginning(source: str) -> None:
    assert _clauses(source) == []


def _clauses(source: str) -> list[str]:
    """The docstrings, comments and rules with a sentence whose subject is a clause."""
    said = (*_docstrings(source), *_comments(source)) if _MAYBE.search(source) else ()
    return [one for one in said if _CLAUSE.search(one)]


def _docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield " ".join((ast.get_docstring(node) or "").split())


def _comments(source: str) -> list[str]:
    """The comments, each of several lines as one; a rule begins another."""
    found, after = [""], (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            said = token.string.removeprefix("# ").removeprefix("rule: ")
            if token.start == after and not token.string.startswith("# rule: "):
                found[-1] += f" {said}"
            else:
                found.append(said)
            is_alone = token.line.lstrip().startswith("#")
            after = (token.start[0] + 1, token.start[1]) if is_alone else (0, 0)
    return found


def test_every_task_has_a_name_that_survives_a_move() -> None:
    ours = {name for name, task in celery_app.tasks.items() if task.__module__.split(".")[0] in PACKAGES}
    assert ours >= {"process_events", "perform_actions", "sweep"}
    assert [name for name in ours if "." in name] == []


def test_every_task_of_the_schedule_exists() -> None:
    assert timetable().keys() <= set(celery_app.tasks)


def test_one_public_name_lives_in_one_module() -> None:
    modules: dict[str, set[str]] = {}
    for path in FILES:
        for name in _public_names(path):
            modules.setdefault(name, set()).add(_name(path))
    assert {name for name, found in modules.items() if len(found) > 1} == _IN_SEVERAL


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_import_is_renamed(path: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    renamed = [one.asname for node in imports for one in node.names if one.asname]
    assert renamed in ([], ["sa"]) if "migrations/" in _name(path) else renamed == []  # as Alembic writes them


def _public_names(path: Path) -> Iterator[str]:
    """The functions, classes and values of a module, but for a migration's, whose names Alembic reads."""
    for node in ast.parse(path.read_text()).body if "migrations/" not in _name(path) else ():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for name in [getattr(node, "name", ""), *(getattr(target, "id", "") for target in targets)]:
            if name and not name.startswith("_"):
                yield name


def test_no_file_hides_a_library_by_its_name() -> None:
    assert {path.stem for path in FILES} & {"celery", "logging", "queue", "email", "stripe", "redis"} == set()


def test_a_module_is_imported_by_its_name_only_where_a_setting_or_a_command_names_it() -> None:
    """EMAIL_LOOKUP names a function of the team's; the others import modules that a setting or a command asks for."""
    users = {_name(path) for path in FILES if "import_module(" in path.read_text()}
    choosing = {
        "config/logs.py",
        "handlers/operator/findings.py",
        "receiver/app.py",
        "worker/__main__.py",
        "worker/commands/show.py",
    }
    assert users == {"handlers/outbox/mails.py", *choosing}
    why = (ROOT / "docs/decisions/0013-plain-imports.md").read_text()
    assert [user for user in users if f"`{user}`" not in why] == []


def test_no_setting_is_read_by_an_import() -> None:
    names = [_name(path).removesuffix(".py").replace("/", ".") for path in FILES if "migrations" not in path.parts]
    look = f"""
import importlib
from config.settings import settings
for name in {[name for name in names if not name.endswith("__main__")]}:
    importlib.import_module(name)
    assert not settings.cache_info().misses, name
"""
    looked = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert looked.returncode == 0, looked.stderr


def test_what_a_kind_or_a_queue_names_is_a_setting() -> None:
    named = {kind.setting for kind in KINDS.values() if kind.setting} | {InboxEvent.MOST_TRIES, OutboxAction.MOST_TRIES}
    assert named <= set(Settings.model_fields)
