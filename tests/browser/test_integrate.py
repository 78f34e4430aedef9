"""docs/integrate-web.md as it stands: backend, page and scripts, at Stripe's own addresses and by its policy."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from playwright.sync_api import expect

from tests.browser.application import TOKEN
from tests.browser.conftest import Visits
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator
from tests.support import pages
from tests.support.service import Service, answers, without_settings
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.browser

SERVER, WEB, NATIVE = (
    (pages.ROOT / f"docs/{name}.md").read_text() for name in ("integrate", "integrate-web", "integrate-native")
)
MODULES = Path(__file__).with_name("node_modules")
# The rest of a page in React.
MAIN = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Verify } from "./Verify.jsx";
createRoot(document.querySelector("#root")).render(<StrictMode><Verify /></StrictMode>);
"""
HTML = "<!doctype html><title>Shop</title><div id='root'></div><script type='module' src='/react.js'></script>"
BUTTON = "Verify my identity"


@pytest.fixture(scope="module")
def shop(service: Service, shop_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("shop")
    here = {
        "http://127.0.0.1:8000": service.base,
        ":9000": f":{shop_port}",
        "not-a-secret-not-a-secret-not-a-secret": TOKEN,
        'return "user-9"': 'return request.cookies["user"]',
        **pages.HTTPX,
    }
    pages.write_files(SERVER + WEB, here, folder)
    if (MODULES / ".installed").exists():
        (folder / "src/main.jsx").write_text(MAIN)
        (folder / "public/react.html").write_text(HTML)
        shutil.copy(folder / "public/follow.js", folder / "src")
        _esbuild(folder, "src/main.jsx", "--bundle", "--jsx=automatic", "--outfile=public/react.js")
    [policy] = re.findall(r"^```http\n(.*)\n```", WEB, re.MULTILINE)
    command = [sys.executable, "-m", "uvicorn", "backend:app", "--port", str(shop_port), "--header", policy]
    with subprocess.Popen(command, cwd=folder, env=without_settings()) as process:
        base = f"http://127.0.0.1:{shop_port}"
        wait_until(lambda: answers(base))
        yield base
        process.terminate()


def _esbuild(folder: Path, *arguments: str) -> None:
    command = [str(MODULES / ".bin/esbuild"), *arguments, "--log-level=warning"]
    subprocess.run(command, cwd=folder, env={**os.environ, "NODE_PATH": str(MODULES)}, check=True)


@pytest.fixture(params=["/", "/react.html"], ids=["plain", "react"])
def page(request: pytest.FixtureRequest, shop: str) -> str:
    if "react" in request.param and not (MODULES / ".installed").exists():
        pytest.skip("no React: make test-browser installs it where there is npm")
    return f"{shop}{request.param}"


def _open(visitor: Visitor, page: str, name: str) -> None:
    visitor.context.add_cookies([{"name": "user", "value": name, "url": page}])
    visitor.page.goto(page)


def _press(visitor: Visitor) -> None:
    """Presses the button once Stripe.js is there."""
    visitor.page.wait_for_function("() => window.Stripe")
    visitor.button(BUTTON).click()


def test_the_dialog_leads_to_what_the_server_knows(page: str, visitor: Visitor, request: pytest.FixtureRequest) -> None:
    _open(visitor, page, request.node.name)
    _press(visitor)
    visitor.pick("close")
    says = visitor.page.get_by_role("status")
    expect(says).not_to_be_empty()
    _press(visitor)
    visitor.pick("fail", "document_expired")
    expect(says).to_have_text("That did not work. Please try again.")
    _press(visitor)
    visitor.pick("pass")
    expect(says).to_have_text("Your identity is verified.")


def test_a_second_click_fetches_no_second_secret(page: str, visitor: Visitor, request: pytest.FixtureRequest) -> None:
    asked: list[str] = []
    visitor.page.on("request", lambda sent: asked.append(urlsplit(sent.url).path))
    _open(visitor, page, request.node.name)
    visitor.page.wait_for_function("() => window.Stripe")
    visitor.button(BUTTON).dblclick()
    visitor.pick("pass")
    expect(visitor.page.get_by_role("status")).to_have_text("Your identity is verified.")
    assert asked.count("/verification/modal") == 1


def test_where_stripes_script_is_blocked_the_form_redirects(
    page: str, visitor: Visitor, request: pytest.FixtureRequest
) -> None:
    visitor.page.route("https://js.stripe.com/**", lambda route: route.abort())
    _open(visitor, page, request.node.name)
    visitor.button(BUTTON).click()
    visitor.page.wait_for_url("https://verify.stripe.com/**")


def test_without_javascript_the_person_goes_there_and_comes_back(shop: str, visits: Visits) -> None:
    visitor = visits(java_script_enabled=False)
    _open(visitor, f"{shop}/", "without-javascript")
    visitor.button(BUTTON).click()
    visitor.page.wait_for_url("https://verify.stripe.com/**")
    visitor.pick("pass", at=visitor.page)
    visitor.page.get_by_role("link", name="Continue to").click()
    visitor.page.wait_for_url(f"{shop}/")


def test_an_app_goes_on_with_what_was_begun_in_the_browser(shop: str, simulator: Simulator) -> None:
    with httpx.Client(base_url=shop, cookies={"user": "on-the-phone"}, timeout=PATIENCE) as app:
        begun = app.post("/verification/modal").json()
        answer = app.post("/verification/native?stripe_version=2026-10-28.endive").json()
        assert answer["entry"]["session_id"] == begun["entry"]["client_secret"].partition("_secret_")[0]
        assert set(answer) == {"status", "submissions", "can_retry", "has_failed", "entry"}
        simulator.act(answer["entry"]["session_id"], "pass")
        wait_until(lambda: app.get("/verification").json()["status"] == "verified")


def test_the_screen_in_react_native_can_be_read(tmp_path: Path) -> None:
    if not (MODULES / ".installed").exists():
        pytest.skip("no esbuild: make test-browser installs it where there is npm")
    [screen] = pages.write_files(NATIVE, {}, tmp_path)
    _esbuild(tmp_path, screen.name, "--outfile=screen.js")
