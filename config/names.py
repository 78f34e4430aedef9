"""Look-ups of host names, for all libraries of this process, and connections by name: both in bounded time."""

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

_SECONDS = 5.0  # with one silent name server of several, and three domains to search, four pass
_AGAIN_SECONDS = 30.0  # from the start of a late look-up to the next one of the same name
_MOST_LEFT = 20  # threads that wait for name servers, and hold up nobody
_LEFT_SECONDS = 900.0  # until such a thread counts no more: it may wait for ever, and other names must not
_LEAST_SECONDS = 0.1  # for an address, and for what comes after: the time may have been used up
_libc = socket.getaddrinfo


class LateNameError(socket.gaierror):
    """No name server has said in time what a name stands for."""

    def __init__(self) -> None:
        super().__init__(socket.EAI_AGAIN, "no name server has answered in time")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A look-up by a thread of its own, for all who want the same."""

    since: float = field(default_factory=time.monotonic)
    answer: Future[Any] = field(default_factory=Future)


_asked: dict[tuple[Any, ...], _Asked] = {}
_waiting: list[float] = []  # the starts of the look-ups that have not ended
os.register_at_fork(after_in_child=_asked.clear)  # the threads are the parent's
os.register_at_fork(after_in_child=_waiting.clear)


def look_up(
    host: Any,
    port: Any,
    family: int = 0,
    type: int = 0,  # noqa: A002  # its name in socket.getaddrinfo
    proto: int = 0,
    flags: int = 0,
    *,
    within: float = _SECONDS,
) -> list[Any]:
    """Does as socket.getaddrinfo, in whose place it stands. Raises LateNameError if it would take longer.

    Nobody can interrupt a look-up, nor does libc bound it: a name server may ask for TCP, and say nothing by that. So a
    late one is left alone; its answer is kept for the next who asks.
    """
    with suppress(socket.gaierror):
        return _libc(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)
    try:
        found: list[Any] = _in_time(within, _libc, host, port, family, type, proto, flags)
    except socket.gaierror as error:
        if error.errno != socket.EAI_AGAIN:
            raise
    else:
        return found
    raise LateNameError


def connect(host: str, port: int, ends_at: float, most: float) -> socket.socket:
    """A connection to one of a name's addresses, made before `ends_at` by the monotonic clock.

    An address has its share of the time, and `most` seconds at most. Raises OSError.
    """
    found = look_up(host, port, type=socket.SOCK_STREAM, within=min(_SECONDS, ends_at - time.monotonic()))
    trouble = OSError("it has no address")
    for place, (family, kind, protocol, _, address) in enumerate(found):
        try:
            one = socket.socket(family, kind, protocol)
        except OSError as error:
            trouble = error
            continue
        try:
            one.settimeout(_bounded((ends_at - time.monotonic()) / (len(found) - place), most))
            one.connect(address)
        except OSError as error:
            one.close()
            trouble = error
        else:
            one.settimeout(_bounded(ends_at - time.monotonic(), most))
            return one
    raise trouble


def own_name() -> str:
    """This machine's name as a mail server wants it: with a domain, or else an address."""
    try:
        return _own_name()
    except socket.gaierror:
        return "[127.0.0.1]"


@cache
def _own_name() -> str:
    return str(_in_time(_SECONDS, _named))


def _named() -> str:
    name = socket.getfqdn()
    return name if "." in name else f"[{socket.gethostbyname(socket.gethostname())}]"


def _bounded(seconds: float, most: float) -> float:
    return max(_LEAST_SECONDS, min(seconds, most))


def _in_time(within: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's result, or its exception. Raises LateNameError if it is late, at once if one before it still is."""
    wanted, now = (call, *arguments), time.monotonic()
    asked = _asked.get(wanted)
    # rule: a name is not looked up again while a late look-up goes on
    if asked is None or now - asked.since > _AGAIN_SECONDS:
        # rule: threads that wait for name servers are few
        if sum(now - since < _LEFT_SECONDS for since in list(_waiting)) >= _MOST_LEFT:
            raise LateNameError
        asked = _asked[wanted] = _Asked()
        try:
            threading.Thread(target=_answer, args=(asked, wanted), name="name look-up", daemon=True).start()
        except RuntimeError:  # the process ends, or may have no more threads
            del _asked[wanted]
            raise LateNameError from None
    with suppress(TimeoutError):
        return asked.answer.result(max(0.0, asked.since + within - now))
    raise LateNameError


def _answer(asked: _Asked, wanted: tuple[Any, ...]) -> None:
    call, *arguments = wanted
    _waiting.append(asked.since)
    is_kept = False
    try:
        asked.answer.set_result(call(*arguments))
        is_kept = time.monotonic() - asked.since > _SECONDS
    except BaseException as error:  # for whoever waits
        asked.answer.set_exception(error)
    _waiting.remove(asked.since)
    if not is_kept and _asked.get(wanted) is asked:
        del _asked[wanted]
