"""Thousands of requests that schemathesis makes of /openapi.json, to a real receiver and the local Stripe behind it."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuzz.__main__ import Receiver, receiver, tracebacks
from tests.simulator.client import Simulator
from tests.support import postgres
from tests.support.processes import ROOT

TOKEN = "schemathesis-schemathesis-schemathesis"
FLOWS = ("vf_1", "vf_2")
# Values that an installation knows, and its document cannot say: they make a part of each request right.
KNOWN = {
    "account": [""],
    "return_url": ["https://app.example/done", "shop://done", None],
    "verification_flow": [*FLOWS, None],
}
# Only Stripe can know that there is no such flow: no other request may lead to a 502.
REFUSED = "Stripe does not accept verification_flow"
CONFIGURATION = 'checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "502"]'
CASES_OF_AN_EXAMPLE = 10  # of all operations and phases


def main() -> int:
    """Runs the cases: 0 if every answer is as documented, none a 5xx, and no verification has two open sessions."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.api", description=__doc__)
    parser.add_argument("--cases", type=int, default=3000, help="how many, about (default: 3000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL of its own, instead of SQLite")
    options = parser.parse_args()
    with _running(on_postgres=options.postgres) as (running, stripe, folder):
        code = _schemathesis(running, folder, options.cases, options.seed)
        problems = [*tracebacks(running), *_refused(running), *_open_twice(stripe)]
    print("\n".join(problems) or "Nothing in the log, and no two open sessions of one verification.")
    return code or bool(problems)


@contextmanager
def _running(*, on_postgres: bool) -> Iterator[tuple[Receiver, Simulator, Path]]:
    if on_postgres:
        with postgres.cluster(postgres.FAST) as url, _with_stripe(DATABASE_URL=url) as running:
            yield running
    else:
        with _with_stripe() as running:
            yield running


@contextmanager
def _with_stripe(**variables: str) -> Iterator[tuple[Receiver, Simulator, Path]]:
    with Simulator.start() as stripe, tempfile.TemporaryDirectory(prefix="api-", dir="/tmp") as folder:
        for flow in FLOWS:
            stripe.flow(flow)
        variables |= {
            "STRIPE_API_BASE": stripe.base,
            "STRIPE_API_KEY": stripe.api_key,
            "STRIPE_PUBLISHABLE_KEY": "pk_test_simulator0000",
            "API_TOKENS": f"fuzz:{TOKEN}",
            "RETURN_ORIGINS": "https://app.example,shop:",
            "STATIC_LINKS": "signup=https://verify.stripe.com/test_1",
            "LINK_KEYS": "not-a-secret-not-a-secret-not-a-secret",
        }
        with receiver(**variables) as running:
            yield running, stripe, Path(folder)


def _schemathesis(running: Receiver, folder: Path, cases: int, seed: int) -> int:
    """Runs schemathesis with all its phases and checks. Returns its exit code."""
    base = f"http://127.0.0.1:{running.port}"
    with urllib.request.urlopen(f"{base}/openapi.json") as answer:
        document = json.load(answer)
    (folder / "openapi.json").write_text(json.dumps(_with_what_is_known(document)))
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(folder / "openapi.json"), "--url", base]
    command += ["--header", f"Authorization: Bearer {TOKEN}", "--checks", "all", "--seed", str(seed)]
    command += ["--max-examples", str(max(cases // CASES_OF_AN_EXAMPLE, 1)), "--generation-database", "none"]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.fuzz.replacing", "PYTHONPATH": str(ROOT)}
    return subprocess.call(command, cwd=folder, env={**os.environ, **hooks})


def _with_what_is_known(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for name, values in KNOWN.items():
        schemas["Opening"]["properties"][name] = {"enum": values}
    document["paths"]["/static-links/{name}"]["post"]["parameters"][0]["schema"]["enum"] = ["signup", "unknown"]
    return document


def _refused(running: Receiver) -> list[str]:
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if '"stripe.refused"' in line]
    print(f"{len(lines)} requests that Stripe refused.")
    return [str(line) for line in lines if line["why"] != REFUSED]


def _open_twice(stripe: Simulator) -> list[str]:
    opened = [one for one in stripe.truth()["sessions"] if one["status"] == "requires_input" and not one["redaction"]]
    counted = Counter(one["metadata"].get("idv_id") for one in opened)
    later = sum(one["metadata"].get("idv_generation", "1") != "1" for one in stripe.truth()["sessions"])
    print(f"{len(opened)} open sessions at Stripe, of {len(counted)} verifications; {later} in another's place.")
    return [f"{count} open sessions of {verification}" for verification, count in counted.items() if count > 1]


if __name__ == "__main__":
    sys.exit(main())
