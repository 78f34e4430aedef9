"""The version that runs: pyproject.toml's, and the commit that the platform names."""

import tomllib
from pathlib import Path

import pytest

from config import version
from config.settings import COMMIT_NAMES
from worker.__main__ import parser

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.fixture(autouse=True)
def _no_commit(environment: pytest.MonkeyPatch) -> None:
    for name in COMMIT_NAMES:
        environment.delenv(name, raising=False)


def test_name_and_version_are_those_of_pyproject() -> None:
    assert (PROJECT["name"], PROJECT["version"]) == (version.SERVICE, version.VERSION)


@pytest.mark.parametrize("name", COMMIT_NAMES)
def test_the_commit_is_the_platforms(name: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv(name, "1a2b3c4")
    assert version.running_version() == f"{version.SERVICE} {version.VERSION} (1a2b3c4)"


def test_version_is_said_whatever_the_settings_are(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("PORT", "none")
    with pytest.raises(SystemExit) as end:
        parser().parse_args(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"{version.SERVICE} {version.VERSION}\n")
