"""One local Stripe, one service and one browser for all; each test has sessions and windows of its own."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from config.defaults import redis_url
from handlers.operator.console_users import hash_of
from tests.browser.addresses import VERIFY, Addresses
from tests.browser.application import LINK_KEY, OLD_LINK_KEY, TOKEN, Application
from tests.browser.visitor import Visitor
from tests.simulator.catcher import Catcher
from tests.simulator.client import Simulator
from tests.support.pseudo import write_words
from tests.support.service import ROOT, Service, answers, free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--no-sandbox", "--no-proxy-server", "--disable-dev-shm-usage")  # CI runs as root, in a container

FRAMES = "https://frames.stripe.com"  # an origin that no page of Stripe's names
CONSOLE_USERS = ("anna", "ben", "clara", "dora", "erik", "frida")  # a name may sign in five times a minute
PASSWORD = "a password of the console"
SECRET = "whsec_of_the_endpoint_0000"
CALLBACK_SECRET = "whsec_" + "A" * 32
SETTINGS = {
    "APP_CALLBACK_SECRET": CALLBACK_SECRET,
    "LOCALES": "en,de,ar",
    "STRIPE_WEBHOOK_SECRET": SECRET,
    "STRIPE_PUBLISHABLE_KEY": "pk_test_simulator0000000000000000",
    "API_TOKENS": f"shop:{TOKEN}",
    "LINK_KEYS": f"{LINK_KEY},{OLD_LINK_KEY}",
    "OPENINGS_PER_DAY": "1000",
    "MAIL_FROM": "Example Ltd <identity@example.com>",
    "SUPPORT_EMAIL": "help@example.com",
    "PRIVACY_URL": "https://example.com/privacy",
    "ALTERNATIVE_URL": "https://example.com/another-way",
    "CONSOLE_USERS": ",".join(f"{name}:mend:{hash_of(PASSWORD)}" for name in CONSOLE_USERS),
    "CONSOLE_KEYS": "c" * 32,
}

Visits = Callable[..., Visitor]


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    with Simulator.start(speed=1000.0) as simulator:
        simulator.settings(pages=VERIFY)
        yield simulator


@pytest.fixture(scope="session")
def addresses(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    with Addresses(tmp_path_factory.mktemp("addresses"), simulator.base) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def told() -> Iterator[Catcher]:
    """Catches the calls to the application."""
    with Catcher() as told:
        yield told


@pytest.fixture(scope="session")
def shop_port() -> int:
    """The port of the backend of docs/integrate-web.md."""
    return free_port()


@pytest.fixture(scope="session")
def service(
    simulator: Simulator, told: Catcher, shop_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    words = tmp_path_factory.mktemp("words")
    write_words(words, "ar")  # a language that is read from right to left
    settings = {"STRIPE_API_BASE": simulator.base, "STRIPE_API_KEY": simulator.api_key}
    origins = f"https://app.example.com,shop:,http://127.0.0.1:{shop_port}"
    settings |= {"APP_CALLBACK_URL": told.url, "TEMPLATES_DIR": str(words), "RETURN_ORIGINS": origins, **SETTINGS}
    with Service(tmp_path_factory.mktemp("service"), **settings) as service:
        service.wait_ready()
        simulator.endpoint(service.url, secret=SECRET)
        yield service


@pytest.fixture(scope="session")
def browser(addresses: Addresses) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    flags = [*FLAGS, f"--host-resolver-rules={addresses.rules}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def local_web(service: Service, simulator: Simulator) -> Iterator[str]:
    """Another web process of the service, as `make stripe` sets it up: the stand-in is at the local Stripe.

    Its policy allows one origin more.
    """
    port = str(free_port())
    variables = {"PORT": port, "STRIPE_JS_URL": f"{simulator.base}/js/stripe.js", "CSP_EXTRA": FRAMES}
    variables |= {"REDIS_URL": redis_url(service.folder / "var")}
    command = [sys.executable, "-m", "receiver"]
    with (
        service.log.open("ab") as log,
        subprocess.Popen(command, cwd=ROOT, env=service.environment | variables, stdout=log, stderr=log) as process,
    ):
        service.wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture(scope="session")
def application(service: Service) -> Iterator[Application]:
    with Application(service) as application:
        yield application


@pytest.fixture
def visits(browser: Browser) -> Iterator[Visits]:
    """Opens windows, each with Playwright's options of a context; none of them may have complaints at the end."""
    made: list[Visitor] = []

    def visit(**how: Any) -> Visitor:
        made.append(Visitor(browser, **how))
        return made[-1]

    yield visit
    for visitor in made:
        visitor.close()


@pytest.fixture
def visitor(visits: Visits) -> Visitor:
    """One window as most people have it."""
    return visits()
