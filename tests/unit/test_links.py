"""Links that may be mailed: a recent signature of our keys lets in, in any spelling, and nothing else does."""

from datetime import UTC, datetime, timedelta
from string import ascii_letters, digits

import pytest
from itsdangerous import TimestampSigner

from config.settings import settings
from handlers.sessions import links
from handlers.sessions.links import link_to, read_token
from handlers.sessions.refusals import OpeningError
from handlers.sessions.views import NotFoundError

OLD, NEW, OTHER = "o" * 32, "n" * 32, "x" * 32
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SUBJECTS = ["idv_0123456789abcdef", "vs_1Abc", "idv_of_nobody"]  # their existence is checked later


@pytest.fixture(autouse=True)
def clock(environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    environment.setenv("STRIPE_API_KEY", "sk_test_made_up")
    environment.setenv("PUBLIC_URL", "https://id.example/")
    _keys(environment, NEW)
    shown = [NOW]
    monkeypatch.setattr(links, "true_now", lambda: shown[0])
    return shown


def _keys(environment: pytest.MonkeyPatch, *keys: str) -> None:
    environment.setenv("LINK_KEYS", ",".join(keys))
    settings.cache_clear()


def _token(subject: str = SUBJECTS[0]) -> str:
    return link_to(subject).url.removeprefix("https://id.example/verify/")


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_link_leads_to_its_subject_for_link_days(clock: list[datetime], subject: str) -> None:
    link = link_to(subject)
    assert link.expires_at == NOW + timedelta(days=7)
    token = link.url.removeprefix("https://id.example/verify/")
    assert token.isascii()
    assert token[-1] in ascii_letters + digits, "a mail program leaves other ends out of a link"
    assert token not in repr(link)
    for later, is_expired in {0: False, 7 * 86400: False, 7 * 86400 + 1: True, 70 * 86400: True}.items():
        clock[0] = NOW + timedelta(seconds=later)
        assert read_token(token) == links.Token(subject=subject, is_expired=is_expired)


@pytest.mark.parametrize(("ahead", "is_expired"), [(5, False), (300, False), (3600, True), (400 * 86400, True)])
def test_a_link_from_minutes_ahead_is_one_of_now(clock: list[datetime], ahead: int, is_expired: bool) -> None:
    token = _token()
    clock[0] = NOW - timedelta(seconds=ahead)
    assert read_token(token).is_expired is is_expired


def test_the_newest_key_signs_and_the_older_ones_are_still_read(environment: pytest.MonkeyPatch) -> None:
    _keys(environment, OLD)
    token = _token()
    _keys(environment, NEW, OLD)
    assert read_token(token).subject == SUBJECTS[0]
    rolled = _token()
    _keys(environment, OLD)
    with pytest.raises(NotFoundError):
        read_token(rolled)
    _keys(environment, NEW)
    assert read_token(rolled).subject == SUBJECTS[0]
    with pytest.raises(NotFoundError):
        read_token(token)


def test_the_same_token_in_another_spelling_has_the_same_subject() -> None:
    token = _token()
    spelled = {token[:-1] + last for last in ascii_letters + digits + "-_"}
    read = []
    for one in spelled:
        try:
            read.append(read_token(one).subject)
        except NotFoundError:
            continue
    assert read == [SUBJECTS[0]] * 4


def test_what_our_keys_have_not_signed_as_a_link_is_not_found(environment: pytest.MonkeyPatch) -> None:
    token = _token()
    subject, signed_at, signature = token.split(".")
    of_another = _token("idv_another").split(".")
    forged = [
        *(token[:length] for length in range(len(token))),
        f"{token}A",
        f".{token}",
        f"{subject}.{signature}",
        f"{of_another[0]}.{signed_at}.{signature}",
        f"{subject}.{'A' * 4}.{signature}",
        f"{subject}.{signed_at}.",
        f"{subject}.{signed_at}.{'A' * 10_000}",
        f"{subject}..{signature}",
        "é.é.é",
        "\ud800",
        "\x00",
        TimestampSigner(NEW).sign(subject).decode(),  # for another purpose
        TimestampSigner(OTHER, salt=links._SALT).sign(subject).decode(),
    ]
    for one in forged:
        with pytest.raises(NotFoundError):
            read_token(one)
    _keys(environment, OTHER)
    with pytest.raises(NotFoundError):
        read_token(token)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("STRIPE_API_KEY", "", "STRIPE_API_KEY is not set"),
        ("LINK_KEYS", "", "LINK_KEYS is not set"),
        ("PUBLIC_URL", "http://id.example", "PUBLIC_URL is not https: "),
        ("PUBLIC_URL", "http://127.0.0.1.id.example", "PUBLIC_URL is not https: "),
    ],
)
def test_where_a_link_would_be_of_no_use_or_not_safe_none_is_made(
    environment: pytest.MonkeyPatch, name: str, text: str, why: str
) -> None:
    environment.setenv("DATABASE_URL", "postgres://db/identity")
    environment.setenv(name, text)
    settings.cache_clear()
    with pytest.raises(OpeningError) as refused:
        link_to(SUBJECTS[0])
    assert refused.value.code == "no-links"
    assert refused.value.detail.startswith(why)


@pytest.mark.parametrize("url", ["", "http://localhost:8000", "https://localhost", "http://[::1]:8000"])
def test_with_a_live_key_nobody_is_sent_to_this_machine(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("STRIPE_API_KEY", "rk_live_made_up_for_tests")
    environment.setenv("PUBLIC_URL", url)
    settings.cache_clear()
    assert settings().why_no_links.startswith("PUBLIC_URL leads to this machine")
    environment.setenv("PUBLIC_URL", "https://id.example")
    settings.cache_clear()
    assert settings().why_no_links == ""


@pytest.mark.parametrize("url", ["", "http://localhost:8000", "http://[::1]:8000", "http://127.0.0.1:8000"])
def test_on_this_machine_itself_a_link_is_made_over_plain_http(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("PUBLIC_URL", url)
    settings.cache_clear()
    made = link_to(SUBJECTS[0]).url
    assert made.startswith((url or "http://127.0.0.1:8000") + "/verify/idv_")


def test_without_keys_nothing_is_read(environment: pytest.MonkeyPatch) -> None:
    token = _token()
    environment.setenv("DATABASE_URL", "postgres://db/identity")
    _keys(environment, "")
    with pytest.raises(NotFoundError):
        read_token(token)
