"""A name is looked up in bounded time, by few threads; and a connection by name has an end."""

import errno
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from config import names
from handlers.queue.failures import why_unreached
from tests.support.waiting import PATIENCE, wait_until

_FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))]
_libc = names._libc


class _NameServers:
    """Stand in for libc: they tell a name's address, or say nothing about it until they are back."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.silent_about: set[str] = set()
        self.back = threading.Event()
        self.error: int | None = None

    def getaddrinfo(self, host: str, *arguments: Any) -> list[Any]:
        if arguments[-1] & socket.AI_NUMERICHOST:
            return _libc(host, *arguments)
        self.asked[host] += 1
        if host in self.silent_about:
            self.back.wait(PATIENCE)
        if self.error is not None:
            raise socket.gaierror(self.error, "no")
        return _FOUND


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[_NameServers]:
    made = _NameServers()
    monkeypatch.setattr(names, "_libc", made.getaddrinfo)
    try:
        yield made
    finally:
        made.back.set()
        wait_until(lambda: not names._waiting)
        names._asked.clear()


def _late(host: str) -> None:
    with pytest.raises(names.LateNameError):
        names.look_up(host, 443, within=0.01)


def test_each_librarys_look_up_is_ours() -> None:
    assert socket.getaddrinfo is names.look_up


def test_a_late_look_up_is_left_alone_and_others_go_on(servers: _NameServers) -> None:
    servers.silent_about = {"a.example"}
    for _ in range(3):
        _late("a.example")
    assert names.look_up("b.example", 443) == _FOUND
    assert servers.asked == {"a.example": 1, "b.example": 1}


def test_a_late_answer_is_kept_for_the_next_who_asks(servers: _NameServers, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.silent_about = {"a.example"}
    _late("a.example")
    monkeypatch.setattr(names, "_SECONDS", 0.0)  # it is late by now
    servers.back.set()
    wait_until(lambda: not names._waiting)
    assert names.look_up("a.example", 443, within=0.0) == _FOUND
    assert servers.asked["a.example"] == 1
    monkeypatch.setattr(names, "_AGAIN_SECONDS", 0.0)
    names.look_up("a.example", 443)
    assert servers.asked["a.example"] == 2


def test_an_answer_in_time_is_not_kept(servers: _NameServers) -> None:
    for _ in range(2):
        assert names.look_up("a.example", 443) == _FOUND
        wait_until(lambda: not names._asked)
    assert servers.asked["a.example"] == 2


def test_a_failure_is_not_kept_however_late(servers: _NameServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_SECONDS", 0.0)
    servers.error = socket.EAI_AGAIN
    for _ in range(2):
        with pytest.raises(names.LateNameError):
            names.look_up("a.example", 443, within=PATIENCE)
        wait_until(lambda: not names._asked)
    assert servers.asked["a.example"] == 2


def test_a_name_that_is_late_is_asked_about_again_after_a_while(
    servers: _NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.silent_about = {"a.example"}
    _late("a.example")
    servers.silent_about = set()
    monkeypatch.setattr(names, "_AGAIN_SECONDS", 0.0)
    assert names.look_up("a.example", 443) == _FOUND


def test_no_more_than_so_many_look_ups_wait(servers: _NameServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_MOST_LEFT", 3)
    servers.silent_about = {f"{number}.example" for number in range(3)}
    for host in sorted(servers.silent_about):
        _late(host)
    _late("a.example")
    assert servers.asked["a.example"] == 0
    monkeypatch.setattr(names, "_LEFT_SECONDS", 0.0)  # they wait for ever
    assert names.look_up("a.example", 443) == _FOUND


def test_an_address_is_looked_up_at_once(servers: _NameServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_MOST_LEFT", 0)
    for address in ("192.0.2.7", "2001:db8::7"):
        assert names.look_up(address, 443, type=socket.SOCK_STREAM)[0][4][:2] == (address, 443)
    _late("a.example")
    assert not servers.asked


def test_a_process_without_threads_to_spare_waits_for_one(
    servers: _NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        _late("a.example")
    assert names.look_up("a.example", 443) == _FOUND
    assert servers.asked["a.example"] == 1


def test_a_child_has_none_of_its_parents_look_ups(servers: _NameServers) -> None:
    servers.silent_about = {"a.example"}
    _late("a.example")
    if (child := os.fork()) == 0:
        os._exit(len(names._waiting) + len(names._asked))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.EAI_NONAME, "its name is not known"),
        (socket.EAI_AGAIN, "its name was not found in time"),
    ],
)
def test_a_name_that_is_not_known_is_told_from_one_that_nobody_answers_about(
    servers: _NameServers, error: int, words: str
) -> None:
    servers.error = error
    with pytest.raises(socket.gaierror) as failed:
        names.look_up("a.example", 443)
    assert why_unreached(failed.value) == words


def test_a_process_that_may_open_no_more_files_says_so() -> None:
    wrapped = ConnectionError("no connection")
    wrapped.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert why_unreached(wrapped) == "this process may open no more files (ulimit -n)"


class _SilentSocket:
    """No address answers: a connection takes all the time that it is given."""

    waited = 0.0

    def __init__(self, *_: object) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        self.seconds = seconds

    def connect(self, _: object) -> None:
        _SilentSocket.waited += self.seconds
        raise TimeoutError

    def close(self) -> None:
        pass


@pytest.mark.parametrize("addresses", [1, 4, 16])
def test_a_name_with_many_addresses_has_no_more_time(
    servers: _NameServers, monkeypatch: pytest.MonkeyPatch, addresses: int
) -> None:
    monkeypatch.setattr(_SilentSocket, "waited", 0.0)
    monkeypatch.setattr(names, "_libc", lambda *_: _FOUND * addresses)
    monkeypatch.setattr(socket, "socket", _SilentSocket)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + _SilentSocket.waited)
    with pytest.raises(TimeoutError):
        names.connect("a.example", 443, ends_at=1010.0, most=3.0)
    assert _SilentSocket.waited == pytest.approx(min(10.0, 3.0 * addresses))
    assert not servers.asked


@pytest.fixture
def _no_own_name() -> Iterator[None]:
    names._own_name.cache_clear()
    yield
    names._own_name.cache_clear()


@pytest.mark.usefixtures("_no_own_name")
@pytest.mark.parametrize(("name", "told"), [("mail.example.com", "mail.example.com"), ("dyno", "[192.0.2.9]")])
def test_a_machine_without_a_domain_has_an_address_for_a_name(
    monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: name)
    monkeypatch.setattr(socket, "gethostbyname", lambda _: "192.0.2.9")
    assert names.own_name() == told


@pytest.mark.usefixtures("_no_own_name")
def test_a_machine_whose_name_nobody_finds_is_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getfqdn", lambda: "dyno")
    monkeypatch.setattr(socket, "gethostbyname", refuse)
    assert names.own_name() == "[127.0.0.1]"
