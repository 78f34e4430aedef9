"""Folders that a service may not read or write: each of its processes says so in a sentence, and ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Permissions mean nothing to root, but for these.
_ORDINARY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
_PAGES = {"LINK_KEYS": "k" * 32, "STRIPE_API_KEY": "sk_test_0123456789", "STRIPE_API_BASE": "http://127.0.0.1:9"}


@pytest.mark.parametrize("words", [("receiver",), ("worker", "run")], ids=" ".join)
@pytest.mark.parametrize("below", ["", "new"])
def test_a_var_dir_that_takes_nothing_is_named(tmp_path: Path, words: tuple[str, ...], below: str) -> None:
    folder = tmp_path / "var"
    folder.mkdir()
    folder.chmod(0o555)
    said = _said(words, {"VAR_DIR": str(folder / below)})
    assert said.startswith("VAR_DIR cannot keep a webhook secret: Permission denied (")


@pytest.mark.parametrize("words", [("receiver",), ("worker.app",), ("worker", "run")], ids=" ".join)
@pytest.mark.parametrize(
    ("below", "sentence"),
    [
        ("", "TEMPLATES_DIR must be a folder that is there, and can be read"),
        ("mails", "TEMPLATES_DIR: mails cannot be read: PermissionError"),
    ],
)
def test_templates_that_cannot_be_read_are_named_and_ours_not_taken_instead(
    tmp_path: Path, words: tuple[str, ...], below: str, sentence: str
) -> None:
    folder = tmp_path / "templates"
    (folder / "mails").mkdir(parents=True)
    (folder / below).chmod(0)
    said = _said(words, _PAGES | {"VAR_DIR": str(tmp_path / "var"), "TEMPLATES_DIR": str(folder)})
    (folder / below).chmod(0o700)
    assert said == f"{sentence}\n"


@pytest.mark.parametrize("module", ["receiver", "worker.app", "worker.clock"])
def test_a_setting_that_cannot_be_read_is_named(module: str) -> None:
    assert _said((module,), {"PORT": "c4nary"}) == "PORT must be a whole number from 1 to 65535\n"


def test_a_port_that_another_has_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = _said(("receiver",), {"PORT": str(port), "VAR_DIR": str(tmp_path)})
    assert said.splitlines()[-1] == f"PORT {port} cannot be listened on at 127.0.0.1"


def _said(words: tuple[str, ...], variables: dict[str, str]) -> str:
    """The words of a process that does not come up."""
    command = [*_ORDINARY, sys.executable, "-m", *words]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode not in (0, -15), ended.stdout
    return ended.stderr
