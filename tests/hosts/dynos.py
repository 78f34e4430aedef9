"""The Procfile's processes, each on a host of its own."""

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.services import Dyno
from tests.hosts.network import Network
from tests.support import faketime

PORT = "8000"


def dyno(net: Network, name: str, environment: Mapping[str, str], folder: Path, ahead: float = 0.0) -> Dyno:
    """A process of the Procfile, named like its host (web, worker2), whose clock may be so many seconds ahead."""
    words = {"web": ["receiver", "--host", net.addresses[name]], "worker": ["worker.app", "--concurrency", "8"]}
    command = [*net.on(name), sys.executable, "-m", *words.get(name.rstrip("12"), ["worker.clock"])]
    clock = faketime.host(ahead) if ahead else {}
    own = {"VAR_DIR": str(folder / f"var-{name}"), "PORT": PORT, **clock}
    return Dyno(name, command, {**environment, **own}, folder / f"{name}.log", ahead=ahead)
