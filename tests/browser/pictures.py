"""Takes README's pictures of the console, with a made-up day: `make pictures`."""

import math
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, ViewportSize, sync_playwright

from tests.browser.addresses import VERIFY
from tests.browser.application import Application, Opened
from tests.browser.conftest import CHROMIUM, FLAGS, PASSWORD, SECRET, SETTINGS
from tests.simulator.catcher import Catcher
from tests.simulator.client import Simulator
from tests.support.service import ROOT, Service

_FOLDER = ROOT / "docs" / "pictures"
_SIZE: ViewportSize = {"width": 1100, "height": 900}
_USER = "anna"
_ENDED = {"accepted": 1.0, "duplicate": 0.04, "ignored": 0.02}
_TALLY = (
    "INSERT INTO identity_tally (seconds, since, name, labels, value) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_DEAD = """INSERT INTO outbox_action
  (session_id, name, cause, status, attempts, waits, last_error, created_at, due_at)
  SELECT ?, 'notify_app', 'change ' || ?, 'dead', 12, 0, 'answered 422', moment, moment
  FROM (SELECT strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', '-2 hours') AS moment)"""


def main() -> int:
    """Takes the pictures. Returns 0 also without Chromium, and says so."""
    if CHROMIUM is None:
        print("No pictures: there is no Chromium on this machine.")
        return 0
    with TemporaryDirectory() as folder, Simulator.start(speed=1000.0) as simulator, Catcher() as told:
        simulator.settings(pages=VERIFY)
        variables = {
            "STRIPE_API_BASE": simulator.base,
            "STRIPE_API_KEY": simulator.api_key,
            **SETTINGS,
            "LOCALES": "en",
        }
        with Service(Path(folder), **variables, APP_CALLBACK_URL=told.url) as service:
            service.wait_ready()
            simulator.endpoint(service.url, secret=SECRET)
            with Application(service) as application, sync_playwright() as playwright:
                person = _person(service, simulator, application)
                _day(service, application.open().session_id)
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
                _take(browser.new_page(viewport=_SIZE), service, person)
                browser.close()
    return 0


def _person(service: Service, simulator: Simulator, application: Application) -> Opened:
    """A person whose document had expired, and who was verified then."""
    person = application.open(client_reference_id="order-4711", purpose="age")
    simulator.fail(person.session_id, "document_expired")
    service.wait_until(lambda: "email_retry_prompt done" in service.actions(person.session_id))
    simulator.passed(person.session_id)
    service.wait_until(lambda: "email_verified done" in service.actions(person.session_id))
    return person


def _day(service: Service, session_id: str) -> None:
    """Writes the traces of a busy day: its counters, by the hour, and two calls that the application did not take."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with closing(sqlite3.connect(service.folder / "var" / "identity.db", timeout=30)) as database, database:
        for hours in range(1, 24):
            since = now - timedelta(hours=hours)
            busy = 60 + 220 * max(0.0, math.sin((since.hour - 6) / 17 * math.pi)) + 17 * (hours % 3)
            for name, label, shares in (
                ("identity_deliveries_total", "outcome", _ENDED | {"refused": 0.3 if hours == 9 else 0.0}),
                ("identity_events_total", "outcome", {"applied": 0.93, "stale": 0.05, "ignored": 0.02}),
                (
                    "identity_actions_total",
                    "status",
                    {"done": 0.8, "skipped": 0.06, "dead": 2 / busy if hours == 2 else 0},
                ),
                ("identity_event_age_seconds_bucket", "le", {"0.05": 0.9, "0.25": 0.1}),
                ("identity_action_age_seconds_bucket", "le", {"0.5": 0.9, "1.0" if hours % 4 else "2.5": 0.1}),
            ):
                for kind, share in shares.items():
                    for seconds in (600, 3600):
                        labels = f'{label}="{kind}"' + (',reason="signature"' if kind == "refused" else "")
                        labels += ',reason=""' if kind in _ENDED and label == "outcome" else ""
                        moment = f"{since:%Y-%m-%d %H:%M:%S}.000000+00:00"
                        database.execute(_TALLY, (seconds, moment, name, labels, round(busy * share)))
        database.executemany(_DEAD, [(session_id, "1"), (session_id, "2")])


def _take(page: Page, service: Service, person: Opened) -> None:
    page.goto(f"{service.base}/console")
    page.get_by_label("Name").fill(_USER)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="The last day").click()
    page.get_by_role("link", name="The last day", exact=True).and_(page.locator("[aria-current]")).wait_for()
    page.screenshot(path=_FOLDER / "console-overview.png")
    page.get_by_label("Find").fill("order-4711")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=person.id).wait_for()
    page.screenshot(path=_FOLDER / "console-person.png")


if __name__ == "__main__":
    sys.exit(main())
