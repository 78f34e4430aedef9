"""One person's browser: each complaint of its console is a fault, and so is each hindrance."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, FrameLocator, Locator, Page, expect

PATIENCE = 60_000  # milliseconds; a second or two on an idle machine
PICTURES = Path("var/pages")
_AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
# WCAG 2.2 AA, and axe's other good practices.
_RUN_AXE = "axe.run(document, {resultTypes: ['violations']}).then(results => JSON.stringify(results.violations))"

expect.set_options(timeout=PATIENCE)


class Visitor:
    """A window of its own, with its own cookies and cache; `how` are Playwright's options of a context.

    A line of its console about a policy or an exception is a complaint; the expected ones have `complaint` in them.
    """

    def __init__(self, browser: Browser, *, complaint: str = "", **how: Any) -> None:
        self._expected = complaint
        self.context: BrowserContext = browser.new_context(ignore_https_errors=True, **how)
        self.context.set_default_timeout(PATIENCE)
        self.context.on("console", self._note_policy)
        self.context.on("weberror", lambda found: self.complaints.append(f"uncaught: {found.error}"))
        self.complaints: list[str] = []
        self.page: Page = self.context.new_page()

    @property
    def dialog(self) -> FrameLocator:
        """The frame of Stripe's dialog."""
        return self.page.frame_locator("[role=dialog] iframe")

    @property
    def problem(self) -> Locator:
        """The box in which a page tells a failure."""
        return self.page.locator(".problem")

    def button(self, name: str) -> Locator:
        """The button with these words."""
        return self.page.get_by_role("button", name=name)

    def pick(self, outcome: str, code: str = "", *, at: Page | None = None) -> None:
        """Picks an outcome in the dialog, or on Stripe's own page."""
        place = at or self.dialog
        if code:
            place.locator("#code").select_option(code)
        place.locator(f"button[value={outcome}]").click()

    def hindrances(self) -> list[str]:
        """The hindrances that axe finds on the page as it is."""
        self.page.evaluate(_AXE)
        found = json.loads(self.page.evaluate(_RUN_AXE))
        return [f"{one['id']}: {one['help']}: {node['html']}" for one in found for node in one["nodes"]]

    def take_picture(self, name: str) -> None:
        """Saves a picture of the page, to be looked at."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)

    def close(self) -> None:
        """Closes the window. Raises AssertionError if there were complaints."""
        self.context.close()
        assert [one for one in self.complaints if not self._expected or self._expected not in one] == []

    def _note_policy(self, said: ConsoleMessage) -> None:
        if "Content Security Policy" in said.text or "Permissions policy" in said.text:
            self.complaints.append(said.text)
