"""The official Stripe CLI as `make e2e` installs it, with a local Stripe for its backend."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.simulator.client import Simulator
from tests.simulator.rendering import OBJECT

PREFIX = f"{OBJECT}."
TYPES = [PREFIX + what for what in ("created", "processing", "requires_input", "verified", "canceled", "redacted")]
PATIENCE = 120.0  # seconds; the CLI connects within one on an idle machine

PACKAGES = Path(__file__).parent / "node_modules" / "@stripe"


def binary() -> str:
    """The path of the platform's binary: npm's shim would have to be stopped together with its child."""
    found = sorted(PACKAGES.glob("cli-*/bin/stripe")) + sorted(PACKAGES.glob("cli/vendor/bin/stripe"))
    assert found, "the official Stripe CLI is not installed: make e2e"
    return str(found[0])


def environment(home: Path) -> dict[str, str]:
    """An empty home, and nothing but loopback: the CLI asks for its newest version, and this proxy refuses that."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", "STRIPE_CLI_TELEMETRY_OPTOUT": "1"}
    return {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CONFIG_HOME": str(home), **nowhere}


class Cli:
    """The CLI against one simulator. The output of each `listen` is in `outputs`, its standard error in `logs`."""

    def __init__(self, simulator: Simulator, home: Path) -> None:
        self.simulator = simulator
        self.home = home
        self.environment = environment(home)
        self.listening: list[subprocess.Popen[bytes]] = []
        self.outputs: list[Path] = []

    def run(self, *arguments: str) -> str:
        ran = subprocess.run(
            self._command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def secret(self) -> str:
        """The secret with which every `listen` with this key signs."""
        return self.run("listen", "--print-secret").strip()

    def listen(self, *arguments: str, key: str = Simulator.api_key) -> str:
        """Starts a `listen`. Returns the secret once it is ready."""
        output, log = (self.home / f"listen-{len(self.outputs)}.{kind}" for kind in ("out", "err"))
        with output.open("wb") as out, log.open("wb") as err:
            command = self._command("listen", *arguments, key=key)
            process = subprocess.Popen(command, env=self.environment, stdout=out, stderr=err)
        self.outputs.append(output)
        self.listening.append(process)
        until = time.monotonic() + PATIENCE
        while not (ready := re.search(r"Ready!.*(whsec_\w+)", log.read_text() + output.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        return ready[1]

    def stop(self) -> None:
        """Ends every `listen`."""
        for process in self.listening:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
        self.listening.clear()

    def _command(self, *arguments: str, key: str = Simulator.api_key) -> list[str]:
        return [binary(), *arguments, "--api-base", self.simulator.base, "--api-key", key]
