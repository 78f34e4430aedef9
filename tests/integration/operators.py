"""Short words for tests of the console: its users, and a browser without scripts that signs in."""

import re
from collections.abc import Mapping

import httpx2 as httpx
from starlette.testclient import TestClient

from handlers.operator.console_users import hash_of

HERE = "https://verify.example"
PASSWORD = "correct horse c4nary"
HASH = hash_of(PASSWORD)
USERS = f"anna:mend:{HASH},otto:look:{HASH}"
KEYS = {
    "CONSOLE_USERS": USERS,
    "CONSOLE_KEYS": "c" * 32,
    "PUBLIC_URL": HERE,
    "STRIPE_WEBHOOK_SECRET": "whsec_0123456789",
}
OURS = {"Sec-Fetch-Site": "same-origin", "Origin": "null"}  # as Chromium sends a form of ours


def token_in(page: str) -> str:
    """The token of a page's first form."""
    found = re.search(r'name="token" value="([\w-]+)"', page)
    assert found, page
    return found[1]


def hidden_in(page: str) -> dict[str, str]:
    """The hidden fields of a page's forms, of the last one where there are several: its token, and more."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([\w-]*)"', page))


def sign_in(client: TestClient, name: str = "anna", password: str = PASSWORD) -> httpx.Response:
    """Signs in by the form, as it is shown."""
    token = token_in(client.get("/console/sign-in").text)
    return client.post("/console/sign-in", data={"name": name, "password": password, "token": token}, headers=OURS)


def send(
    client: TestClient, path: str, on: str = "/console", headers: Mapping[str, str] = OURS, **sent: str
) -> httpx.Response:
    """Sends a form of the page `on`."""
    return client.post(path, data={**hidden_in(client.get(on).text), **sent}, headers=headers)
