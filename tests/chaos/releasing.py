"""A rolling deploy under load: the release migrates, then each process is replaced while the others go on."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from config.settings import COMMIT_NAMES
from tests.chaos.faults import Scene
from tests.chaos.services import ROOT, wait_until
from tests.support import history

_MIGRATES_WITHIN = 60.0  # seconds: the database may be away
_TAKES = 60.0  # seconds; half of them are the platform's patience
_REPLACED = ("web", "worker", "clock")


@dataclass(frozen=True, slots=True)
class Release:
    """A version: its words, its code, and the commit that its processes name."""

    words: str
    code: Path
    commit: str

    @property
    def variables(self) -> dict[str, str]:
        """The variables that the platform sets for its processes."""
        return {COMMIT_NAMES[0]: self.commit}

    def migrate(self, environment: Mapping[str, str]) -> bool:
        """Migrates as the release phase does; returns whether it succeeded."""
        command = [sys.executable, "-m", "worker", "migrate"]
        variables = {**environment, **self.variables}
        return subprocess.run(command, cwd=self.code, env=variables, check=False, capture_output=True).returncode == 0


TODAY = Release("today's code", ROOT, "today")


def release_before(folder: Path) -> Release:
    """The code before; without a history, today's under another version."""
    if why := history.why_none():
        return Release(f"today's code under another version ({why})", ROOT, "before")
    commit = history.commit_before()
    return Release(f"the code before ({commit[:7]})", history.unpacked(commit, folder / "before"), commit)


def deploy_today(scene: Scene, before: Release, seed: int, until: float) -> None:
    """Deploys today's code in the place of the code before; a run of minutes rolls back and deploys again."""
    dice = Random(f"deploy {seed}")
    while True:
        time.sleep(dice.uniform(0.5, 1.0) * scene.longest)
        assert wait_until(lambda: TODAY.migrate(scene.environment), _MIGRATES_WITHIN), "the release did not go through"
        _roll(scene, TODAY)
        scene.happened[f"rolling deploy, beside {before.words}"] += 1
        if time.monotonic() > until - 3 * _TAKES:
            return
        time.sleep(dice.uniform(2.0, 4.0) * scene.longest)
        _roll(scene, before)
        scene.happened[f"rolled back to {before.words}"] += 1


def still_there(scene: Scene) -> list[str]:
    """The processes that still run the code before."""
    dynos = scene.platform.dynos.values()
    return [dyno.name for dyno in dynos if dyno.environment[COMMIT_NAMES[0]] != TODAY.commit]


def _roll(scene: Scene, release: Release) -> None:
    for name in _REPLACED:
        scene.platform.replace(name, release.code, release.variables, beside=scene.longest / 2)
