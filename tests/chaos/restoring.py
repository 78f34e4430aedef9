"""A backup of the middle of a run, put back at its end: all later events are learnt from Stripe."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

from tests.chaos.asking import let_leases_end
from tests.chaos.faults import Scene
from tests.chaos.services import ROOT
from tests.chaos.stores import Loss

_TRIES = 5


def back_up(scene: Scene, at: float) -> None:
    """Backs up at that time of the monotonic clock, or as soon as the server is there."""
    assert scene.postgres is not None
    time.sleep(max(0.0, at - time.monotonic()))
    while True:
        scene.backed_up_at = time.time()
        try:
            scene.postgres.back_up()
        except subprocess.CalledProcessError:
            continue
        return


def put_back(scene: Scene) -> dict[str, Any]:
    """Ends everything, puts the backup back, and has `worker restored` fetch all later events; returns its findings.

    The mails that the backup owes are sent again: a person who had got theirs has a second one, the smaller fault.
    """
    assert scene.postgres is not None
    began = time.time()
    scene.platform.halt()
    scene.postgres.put_back()
    let_leases_end(scene, datetime.now(UTC))
    command = [sys.executable, "-m", "worker", "restored", "--mail-again", "--json"]
    for _ in range(_TRIES):
        ran = subprocess.run(
            command, env=dict(scene.environment), cwd=ROOT, check=False, capture_output=True, text=True
        )
        if ran.returncode == 0:
            break
    scene.losses.append(Loss(scene.backed_up_at, began, time.time()))
    scene.platform.go_on()
    found: dict[str, Any] = json.loads(ran.stdout)
    return found
