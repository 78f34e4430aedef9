"""Every page and each of its states by itself: for eyes, for a thumb and for a screen reader."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route

from handlers.catalogue.pages import stylesheet, write_page
from handlers.catalogue.samples import PageSample, page_samples
from tests.browser.conftest import Visits
from tests.support import databases
from tests.support.pseudo import write_words

pytestmark = pytest.mark.browser

AT = "http://127.0.0.1:9/"
SAID = {"PRIVACY_URL": "https://example.com/privacy", "ALTERNATIVE_URL": "https://example.com/another-way"}
RIGHT_TO_LEFT = "ar"
LEAST = 44  # pixels of each thing that is touched
# Links within a sentence, and things beside a button, may be smaller; ours are not.
_TOUCHED = """Array.from(document.querySelectorAll("main a, button, footer a"))
  .filter((one) => one.checkVisibility())
  .map((one) => [one.innerText, one.getBoundingClientRect().height])"""
_SHOWS_WHAT_THE_SCRIPT_WOULD = """() => {
  for (const template of document.querySelectorAll("template[data-problem]"))
    document.querySelector("main").prepend(template.content.cloneNode(true));
  document.querySelectorAll("[hidden]").forEach((one) => { one.hidden = false; });
  document.querySelectorAll(".problem").forEach((one, number) => {
    one.firstElementChild.id = `problem-${number}`;
    one.setAttribute("aria-label", `${number}`); // on a page there is one
    one.removeAttribute("aria-labelledby");
  });
}"""


def _open(page: Page, sample: PageSample, language: str) -> None:
    def answer(route: Route) -> None:
        is_page = route.request.is_navigation_request()
        body = write_page(sample.page, language, sample.shown) if is_page else stylesheet()
        kind = "html" if is_page else "javascript" if route.request.url.endswith(".js") else "css"
        route.fulfill(body="" if kind == "javascript" else body, content_type=f"text/{kind}")

    page.unroute_all()
    page.route(f"{AT}**", answer)
    page.goto(AT)


@pytest.mark.parametrize("language", ["en", "de", RIGHT_TO_LEFT])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_hinders_anybody(
    scheme: Any, language: str, tmp_path: Path, visits: Visits, environment: pytest.MonkeyPatch
) -> None:
    write_words(tmp_path, RIGHT_TO_LEFT)
    for name, value in {**SAID, "LOCALES": f"en,de,{RIGHT_TO_LEFT}", "TEMPLATES_DIR": str(tmp_path)}.items():
        environment.setenv(name, value)
    databases.forget_process_state()
    visitor = visits(color_scheme=scheme, reduced_motion="reduce", viewport={"width": 320, "height": 640})
    visitor.context.grant_permissions(["local-network-access"])
    for sample in page_samples():
        _open(visitor.page, sample, language)
        visitor.page.evaluate(_SHOWS_WHAT_THE_SCRIPT_WOULD)
        assert visitor.hindrances() == [], sample.name
        # 320 pixels are 1280 at 400 %.
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 320, sample.name
        too_small = [(text, height) for text, height in visitor.page.evaluate(_TOUCHED) if height < LEAST]
        assert too_small == [], sample.name
        assert visitor.page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("color", ["#ffffff", "#000000", "#ffdd00", "#808080"])
def test_a_page_can_be_read_in_any_brands_colour(color: str, visits: Visits, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BRAND_COLOR", color)
    databases.forget_process_state()
    sample = next(iter(page_samples()))
    schemes: list[Any] = ["light", "dark"]
    for scheme in schemes:
        visitor = visits(color_scheme=scheme)
        visitor.context.grant_permissions(["local-network-access"])
        _open(visitor.page, sample, "en")
        visitor.page.evaluate(_SHOWS_WHAT_THE_SCRIPT_WOULD)
        assert visitor.hindrances() == []


def test_in_forced_colours_the_sign_of_waiting_has_its_gap_and_a_button_its_frame(visits: Visits) -> None:
    visitor = visits(forced_colors="active")
    visitor.context.grant_permissions(["local-network-access"])
    _open(visitor.page, next(one for one in page_samples() if one.page == "processing"), "en")
    sides = visitor.page.locator(".waits").evaluate(
        "(one) => { const {borderTopColor, borderRightColor} = getComputedStyle(one, '::before');"
        " return [borderTopColor, borderRightColor]; }"
    )
    assert sides[0] != sides[1]
    frame, ground = visitor.page.locator("a.button").first.evaluate(
        "(one) => { const {borderTopColor} = getComputedStyle(one);"
        " return [borderTopColor, getComputedStyle(document.body).backgroundColor]; }"
    )
    assert frame != ground
