"""REDIS_URL as kombu gets it, its refusals, and the names of failures."""

import ssl
from typing import Any

import pytest
from redis.exceptions import ResponseError

from config.redis_server import read_redis_url, why_unusable

TIMEOUTS = {"socket_timeout": 2}


def _settings(url: str, *, self_signed: bool = False) -> dict[str, Any]:
    return read_redis_url(url, TIMEOUTS, self_signed=self_signed).settings


@pytest.mark.parametrize(
    ("url", "broker_url"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("redis://h:1/3", "redis://h:1/3"),
        ("redis://h?db=3", "redis://h:6379/3"),
        ("redis://:p%2F%40w@h", "redis://:p%2F%40w@h:6379/0"),
        ("redis://u:p;w@h", "redis://u:p%3Bw@h:6379/0"),  # kombu reads a semicolon as the next server
        ("redis://[::1]:1", "redis://[::1]:1/0"),
        ("rediss://:p@h:1", "rediss://:p@h:1/0"),
        ("sentinel://h1,h2:2/m", "sentinel://h1:26379/0;sentinel://h2:2/0"),
        ("sentinels://u:p@h/m?db=4", "sentinel://u:p@h:26379/4"),
        ("redis+socket:///a/redis.sock", "redis+socket:///a/redis.sock"),
    ],
)
def test_each_server_is_named_as_kombu_reads_it(url: str, broker_url: str) -> None:
    assert _settings(url)["broker_url"] == broker_url


def test_sentinels_have_a_login_and_timeouts_of_their_own() -> None:
    words = f"sentinel_username=s&sentinel_password=q%3B&ssl_ca_certs={__file__}"
    settings = _settings(f"sentinels://:p@h1,h2/my%20master?{words}")
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": __file__}
    assert settings["broker_use_ssl"] == tls
    assert settings["broker_transport_options"] == {
        **TIMEOUTS,
        "master_name": "my master",
        "sentinel_kwargs": {**TIMEOUTS, "username": "s", "password": "q;", "ssl": True, **tls, "retry": None},
    }


@pytest.mark.parametrize(
    ("url", "self_signed", "required"),
    [
        ("redis://h", True, None),
        ("sentinel://h/m", True, None),
        ("rediss://h", False, ssl.CERT_REQUIRED),
        ("sentinels://h/m", False, ssl.CERT_REQUIRED),
        ("rediss://h", True, ssl.CERT_NONE),
        ("sentinels://h/m", True, ssl.CERT_NONE),
        ("rediss://h?ssl_cert_reqs=none", False, ssl.CERT_NONE),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", False, ssl.CERT_NONE),
        ("rediss://h?ssl_cert_reqs=required", True, ssl.CERT_REQUIRED),
    ],
)
def test_a_certificate_is_verified_unless_the_platform_signs_or_the_url_says_otherwise(
    url: str, self_signed: bool, required: ssl.VerifyMode | None
) -> None:
    found = read_redis_url(url, TIMEOUTS, self_signed=self_signed)
    tls = found.settings["broker_use_ssl"]
    assert (tls and tls["ssl_cert_reqs"]) == required
    assert found.is_trusted is (required != ssl.CERT_NONE)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("memory://c4nary", "must be a URL that starts with redis:, rediss:, sentinel:, sentinels:"),
        ("redis://:c4nary/x@h", "needs a host"),
        ("redis://u:c4nary#x@h", "may say after its"),
        ("redis://:c4nary?x@h", "may say after its"),
        ("redis://[c4nary", "is not a URL"),
        ("redis://:c4nary@", "needs a host"),
        ("redis://c4nary1,c4nary2", "only with sentinel"),
        ("redis://h/c4nary", "by a number"),
        ("redis://h?ssl_cert_reqs=none", "may say after its . only db"),
        ("redis://h?c4nary=1", "may say after its . only db"),
        ("rediss://h?ssl_cert_reqs=c4nary", "for ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=c4nary", "for ssl_cert_reqs"),
        ("rediss://h?ssl_ca_certs=/c4nary.pem", "a file that is not there, in ssl_ca_certs"),
        ("sentinel://c4nary", "master's name"),
        ("sentinel://c4nary,/m", "needs a host"),
        ("sentinel://h/m?db=c4nary", "by a number"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_not_shown(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refusal:
        _settings(url)
    assert "c4nary" not in str(refusal.value)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("self-signed certificate (_ssl.c:1006)", "its certificate is not trusted"),
        ("certificate has expired (_ssl.c:1006)", "its certificate has expired"),
        ("certificate is not yet valid (_ssl.c:1006)", "its certificate is not valid yet"),
        ("Hostname mismatch, certificate is not valid for 'c4nary'.", "its certificate is of another host"),
        ("IP address mismatch, certificate is not valid for '10.0.0.1'.", "its certificate is of another host"),
    ],
)
def test_the_fault_of_a_certificate_is_named(said: str, why: str) -> None:
    refused = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {said}"
    assert why_unusable(ssl.SSLCertVerificationError(1, refused)) == why


def test_a_failure_is_named_by_what_lies_under_it() -> None:
    outer = ConnectionError("Error 1 connecting to c4nary")
    outer.__context__ = ssl.SSLCertVerificationError("[SSL: CERTIFICATE_VERIFY_FAILED] c4nary")
    assert why_unusable(outer) == "its certificate is not trusted"
    for wants in (
        ssl.SSLEOFError(8, "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol"),
        ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required"),
    ):
        assert why_unusable(wants) == "it wants a certificate of ours (ssl_certfile)"
    assert why_unusable(TimeoutError("c4nary")) == "it does not answer in time"
    assert why_unusable(OSError("c4nary")) == "it cannot be reached"
    assert why_unusable(ResponseError("c4nary")) == "it refuses a command that is needed"
