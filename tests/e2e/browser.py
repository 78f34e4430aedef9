"""A headless Chromium, driven over chromedriver's plain HTTP (W3C WebDriver)."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.service import PATIENCE, answers, free_port

DRIVER = shutil.which("chromedriver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key the standard gives an element's id
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--proxy-server=http://127.0.0.1:9",  # nothing but loopback
    "--proxy-bypass-list=127.0.0.1",
)


class DriverError(Exception):
    """A command was refused: the standard's word for why, and a sentence."""


class Browser:
    """One window in a profile of its own."""

    def __init__(self, folder: Path) -> None:
        assert DRIVER is not None
        self.base = f"http://127.0.0.1:{free_port()}"
        self.session = ""
        with (folder / "chromedriver.log").open("wb") as log:
            self.process = subprocess.Popen([DRIVER, f"--port={self.base.rpartition(':')[2]}"], stdout=log, stderr=log)
        try:
            self._start(folder / "profile")
        except BaseException:
            self.stop()
            raise

    def open(self, url: str) -> None:
        """Returns once the page has loaded."""
        self._call("POST", "/url", {"url": url})

    def text(self, css: str) -> str:
        """What a reader sees of the first element."""
        return str(self._call("GET", f"/element/{self._find(css)}/text"))

    def choose(self, css: str) -> None:
        """Clicks on the first element."""
        self._call("POST", f"/element/{self._find(css)}/click", {})

    def follow(self, css: str) -> None:
        """Clicks on the first element, and waits until another page has loaded."""
        before = self._loaded()
        self.choose(css)
        until = time.monotonic() + PATIENCE
        while self._loaded() in (None, before):
            assert time.monotonic() < until, "the click led nowhere"
            time.sleep(0.05)

    def stop(self) -> None:
        """Closes the window, and everything that was started for it."""
        try:
            if self.session:
                self._call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, profile: Path) -> None:
        until = time.monotonic() + PATIENCE
        while not answers(f"{self.base}/status"):
            assert self.process.poll() is None, "chromedriver ended"
            assert time.monotonic() < until, "chromedriver does not answer"
            time.sleep(0.05)
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self.session = self._call("POST", "", {"capabilities": capabilities})["sessionId"]
        self._call("POST", "/timeouts", {"implicit": int(PATIENCE * 500)})  # ms to wait for an element of a new page

    def _find(self, css: str) -> str:
        return str(self._call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT])

    def _loaded(self) -> float | None:
        """When the present page began: no other has the same. None before all of it is there."""
        script = "return document.readyState == 'complete' ? performance.timeOrigin : null"
        try:
            began: float | None = self._call("POST", "/execute/sync", {"script": script, "args": []})
        except DriverError:  # between two pages
            return None
        return began

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"{self.base}/session" + (f"/{self.session}" if self.session else "") + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                refused = json.load(error)["value"]
            raise DriverError(refused["error"], refused["message"]) from None
