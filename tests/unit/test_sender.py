"""The sender of a request: a proxy's word, an invented one, and the processes of this machine."""

import pytest

from receiver.sender import as_sent, is_this_machine

HERE = ("127.0.0.1", 50000)
PROXY = ("10.1.2.3", 50000)


def _sent(client: tuple[str, int] | None, proxies: int, *headers: tuple[str, str]) -> tuple[str | None, str, bool]:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = as_sent({"type": "http", "client": client, "scheme": "http", "headers": raw}, proxies)
    return scope["client"][0] if scope["client"] else None, scope["scheme"], is_this_machine(scope)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("proxies", [0, 1, 2])
def test_who_connects_from_here_without_a_word_of_a_proxy_is_this_machine(address: str, proxies: int) -> None:
    assert _sent((address, 1), proxies, ("Host", "x")) == (address, "http", True)


@pytest.mark.parametrize("client", [PROXY, ("::ffff:10.0.0.1", 1), ("", 1), None])
def test_nobody_else_is(client: tuple[str, int] | None) -> None:
    assert not _sent(client, 0)[2]


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "Forwarded",
        "Via",
        "X-Real-IP",
        "CF-Ray",
        "Fly-Region",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", "", "for=127.0.0.1", "1.1 vegur"])
def test_any_word_of_a_proxy_that_is_not_expected_means_somebody_else(name: str, value: str) -> None:
    assert _sent(HERE, 0, (name, value)) == (None, "http", False)


@pytest.mark.parametrize(
    ("proxies", "said", "address"),
    [
        (1, ["198.51.100.7"], "198.51.100.7"),
        (1, ["127.0.0.1, 198.51.100.7"], "198.51.100.7"),
        (1, ["127.0.0.1", "198.51.100.7"], "198.51.100.7"),
        (1, ["a lie,,198.51.100.7 ,"], "198.51.100.7"),
        (1, ["198.51.100.7:4711"], "198.51.100.7"),
        (1, ["[2001:db8::7]:4711"], "2001:db8::7"),
        (1, ["2001:db8::7"], "2001:db8::7"),
        (2, ["127.0.0.1, 198.51.100.7, 10.0.0.1"], "198.51.100.7"),
        (2, ["198.51.100.7"], None),
        (1, [], None),
        (1, [""], None),
    ],
)
def test_the_sender_is_the_entry_that_the_outermost_trusted_proxy_added(
    proxies: int, said: list[str], address: str | None
) -> None:
    headers = [("X-Forwarded-For", entries) for entries in said] or [("Via", "1.1 proxy")]
    assert _sent(PROXY, proxies, *headers) == (address, "http", False)


def test_a_neighbour_behind_a_proxy_on_this_machine_is_this_machine_and_nobody_who_says_so_is() -> None:
    assert _sent(HERE, 1, ("X-Forwarded-For", "127.0.0.1")) == ("127.0.0.1", "http", True)
    for client, said in ((PROXY, "127.0.0.1"), (HERE, "198.51.100.7, 127.0.0.1"), (HERE, "127.0.0.1, 198.51.100.7")):
        assert not _sent(client, 1, ("X-Forwarded-For", said))[2]


@pytest.mark.parametrize(
    ("proxies", "said", "scheme"),
    [
        (0, "https", "http"),
        (1, "https", "https"),
        (1, "HTTPS", "https"),
        (1, "http, https", "https"),
        (2, "https, http", "https"),
        (2, "https", "https"),  # the inner proxy left the outer one's word alone
        (1, "javascript", "http"),
        (1, "", "http"),
    ],
)
def test_the_scheme_is_what_the_same_proxy_saw(proxies: int, said: str, scheme: str) -> None:
    assert _sent(PROXY, proxies, ("X-Forwarded-Proto", said))[1] == scheme
