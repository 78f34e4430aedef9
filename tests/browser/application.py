"""The team's own backend, as far as a person meets it: it opens verifications, and gets the links to their pages."""

import itertools
from hashlib import sha256
from typing import Any, Self

import httpx2 as httpx
from itsdangerous import TimestampSigner

from tests.support.service import Service

LINK_KEY = "of-the-links-of-tests-0123456789"
OLD_LINK_KEY = "of-the-links-of-last-year-0123456789"
TOKEN = "of-the-application-0123456789-0123456789"
DAY = 86_400  # seconds
_numbers = itertools.count(1)


class Opened:
    """One verification: its id, that of its session at Stripe, its page, and the address for mails about it."""

    def __init__(self, application: "Application", answer: dict[str, Any], email: str) -> None:
        self.id = str(answer["id"])
        self.session_id = str(answer["session_id"])
        self.email = email
        self._application = application

    @property
    def link(self) -> str:
        """A fresh link."""
        return str(self._application.ask("POST", f"/verifications/{self.id}/link")["url"])


class Application:
    """A client of the service's API, with one of API_TOKENS."""

    def __init__(self, service: Service) -> None:
        self.base = service.base
        self._client = httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)

    def open(self, **params: Any) -> Opened:
        """Opens a verification: of a new person, unless `client_reference_id` names one."""
        number = next(_numbers)
        email = f"person-{number}@example.com"
        least = {"client_reference_id": f"user-{number}", "type": "document", "provided_details": {"email": email}}
        return Opened(self, self.ask("POST", "/verifications", least | params), email)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the API. Raises HTTPStatusError for a refusal."""
        answer = self._client.request(method, path, json=body)
        answer.raise_for_status()
        decoded: dict[str, Any] = answer.json()
        return decoded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def token(subject: str, *, age: int = 0, key: str = LINK_KEY, salt: str = "identity-events.link") -> str:
    """A token as the service makes it; one of another age, key or salt is not the service's own."""
    return _Signer(age, key, salt).sign(subject).decode()


class _Signer(TimestampSigner):
    def __init__(self, age: int, key: str, salt: str) -> None:
        super().__init__([key], salt=salt, key_derivation="hmac", digest_method=sha256)
        self._age = age

    def get_timestamp(self) -> int:
        return super().get_timestamp() - self._age
