"""The order of a first deploy works as README has it, though the endpoint's secret comes after the first start."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.simulator.client import Simulator
from tests.support import shapes
from tests.support.databases import fresh_database
from tests.support.facts import payload
from tests.support.processes import ROOT, Service, service
from tests.support.waiting import wait_until


@pytest.mark.processes
def test_what_is_deployed_before_the_endpoint_is_made_takes_nothing_until_its_secret_is_set(
    tmp_path: Path, simulator: Simulator
) -> None:
    known = {"STRIPE_API_KEY": simulator.api_key, "STRIPE_API_BASE": simulator.base, "STRIPE_WEBHOOK_SECRET": ""}
    with fresh_database(tmp_path, migrated=False) as url, service(tmp_path / "service", url, **known) as made:
        made.set(PUBLIC_URL=made.url.removesuffix("/webhooks/stripe"))
        released = made.run("migrate").stdout
        assert "Applied 0001: Inbox, records, submissions, outbox" in released
        assert released.endswith("The schema is up to date.\n")
        assert made.run("migrate").stdout == "The schema is up to date.\n"

        made.start("web", "worker", "clock")
        assert _ready(made) == (503, "missing")
        for secret in (shapes.SECRET, "", "whsec_"):
            with pytest.raises(urllib.error.HTTPError, match="503") as refused:
                made.deliver(payload("verified"), secret)
            with refused.value as answer:
                assert answer.headers["Retry-After"] == "30"
        said = json.loads(made.run("doctor", "--json").stdout)
        assert [line["level"] for line in said if "STRIPE_WEBHOOK_SECRET is not set" in line["words"]] == ["FAIL"]

        created = json.loads(made.run("endpoint", "create", "--json").stdout)
        simulator.change_endpoint(created["id"], schedule=[1.0] * 100)  # seconds, until web is back
        session_id = simulator.create(email="jenny@example.com")
        wait_until(lambda: any(delivery["attempts"] for delivery in simulator.deliveries()), made.logs)
        made.kill("web")
        made.set(STRIPE_WEBHOOK_SECRET=created["secret"])
        made.start("web")
        wait_until(lambda: _ready(made) == (200, None), made.logs)
        wait_until(lambda: made.run("session", session_id).returncode == 0, made.logs)


def _ready(made: Service) -> tuple[int, str | None]:
    try:
        with urllib.request.urlopen(made.url.replace("/webhooks/stripe", "/readyz"), timeout=20) as answer:
            return answer.status, json.load(answer).get("webhook_secret")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error).get("webhook_secret")


@pytest.mark.processes
def test_what_the_slug_leaves_out_is_not_missed(tmp_path: Path) -> None:
    """.slugignore names files that the platform leaves out of each dyno."""
    left_out = (ROOT / ".slugignore").read_text().split()
    for name in ("config", "handlers", "receiver", "worker", "Procfile", "pyproject.toml"):
        assert name not in left_out
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    assert all((ROOT / name).exists() for name in left_out)
    environment = {"VAR_DIR": str(tmp_path / "var"), "PATH": "/usr/bin:/bin"}
    for words in (
        ("-m", "worker", "migrate"),
        ("-m", "worker", "dead"),
        ("-c", "import receiver.__main__, worker.app, worker.tasks"),
    ):
        ran = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
