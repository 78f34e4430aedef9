"""Every environment variable this service reads: read once, validated, frozen."""

import logging
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from email.errors import MessageError
from email.header import decode_header, make_header
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal
from unicodedata import category
from urllib.parse import urlsplit

import idna
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.names import look_up
from config.redis_server import read_redis_url

logging.getLogger("pydantic_settings").disabled = True  # with PYDANTIC_SETTINGS_DEBUG it logs every value it reads
# A silent name server is waited for a second, twice; libc by itself waits for up to a minute.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:2")
socket.getaddrinfo = look_up  # and so each library's, but for uvloop's own


class SettingsError(Exception):
    """Settings that cannot be used; the message names each on a line of its own, and never shows a value."""


@dataclass(frozen=True, slots=True)
class Address:
    """One mail address: the name beside it, or "", and the mailbox for an envelope, whose domain is in ASCII."""

    name: str = field(repr=False)
    mailbox: str = field(repr=False)


# An address that needs no parsing: nearly everybody's.
PLAIN_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,9}", re.ASCII)
_MAILBOX = re.compile(
    r'(?:(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^",;:@<>\\]*))\s*<(?P<angled>[^<>]*)>|(?P<bare>[^<>]*))'
)
_LOCAL_PART = re.compile(r'"(?:[^"\\]|\\.)+"|[^\s"(),:;<>@\[\]\\]+')
_DOMAIN = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|\[[A-Za-z0-9.:]+\]")
_TURNING = r"\u200e\u200f\u202a-\u202e\u2066-\u2069"  # signs that turn the direction of the letters around them
_MOST_CHARACTERS = 500  # in an address with its name: a header's line holds 998


def parse_address(text: str) -> Address:
    """Reads `id@example.com`, `Name <id@example.com>` or `"Name, Inc." <id@example.com>`.

    A domain in other letters becomes its form in the DNS (IDNA 2008), and a name that is written as in a header
    (=?UTF-8?…?=) its letters; signs that turn the letters behind a name round are left out. The mail server judges the
    part before the @: some carriers gave out dots in a row and before the @. Raises ValueError with the reason, never
    the text.
    """
    text = _one_line(text.strip())
    found = _MAILBOX.fullmatch(text)
    local, _, domain = ((found and (found["angled"] or found["bare"])) or "").strip().rpartition("@")
    if not found or not _LOCAL_PART.fullmatch(local):
        raise ValueError(
            "must be one address: id@example.com, Name <id@example.com>, or with quotes where the name has a comma "
            'or the like: "Name, Inc." <id@example.com>'
        )
    if any(category(letter) == "Cf" for letter in local):  # a copy brings them along; no address has any
        raise ValueError("must be an address without signs that nobody sees: type it anew")
    domain = domain if domain.isascii() else _in_ascii(domain)
    if not _DOMAIN.fullmatch(domain):
        raise ValueError("must be an address whose domain can exist")
    name = re.sub(r"\\(.)", r"\1", found["quoted"]) if found["quoted"] else found["plain"] or ""
    return Address(re.sub(f"[{_TURNING}]", "", _in_letters(name)).strip(), f"{local}@{domain}")


def _one_line(text: str) -> str:
    if len(text) > _MOST_CHARACTERS or any(category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        raise ValueError("must be an address of one line and usual length")
    return text


def _in_letters(name: str) -> str:
    if "=?" not in name:
        return name
    with suppress(LookupError, MessageError, UnicodeError):  # their sentences quote the name
        return _one_line(str(make_header(decode_header(name))))
    raise ValueError("must be an address whose name is written in its own letters, and not as =?UTF-8?…?=")


def _in_ascii(domain: str) -> str:
    with suppress(UnicodeError):  # its sentences quote the domain
        return idna.encode(domain, uts46=True).decode()
    with suppress(UnicodeError):  # IDNA 2003 had hearts, and some registries sold them
        return domain.encode("idna").decode()
    return ""


def _matching(pattern: str, sentence: str) -> BeforeValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(sentence)
        return text

    return BeforeValidator(check)


def _url(*schemes: str) -> BeforeValidator:
    def check(text: str) -> str:
        try:
            parts = urlsplit(text)
            hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
            _ = [host.port for host in hosts]  # a password with a slash in it ends up here
        except ValueError:  # its sentences quote the URL
            raise ValueError("is not a URL: reserved characters in a password are written as %2F") from None
        if parts.scheme not in schemes or not text.startswith(parts.scheme):
            raise ValueError(f"must be a URL that starts with {', '.join(f'{scheme}:' for scheme in schemes)}")
        if parts.scheme in _WITH_A_HOST and not all(host.hostname for host in hosts):
            raise ValueError(f"must name a host: {parts.scheme}://host")
        # A password's first characters may look like a port.
        if parts.scheme in _NOTHING_BEHIND and (parts.path.strip("/") or parts.query or parts.fragment):
            raise ValueError("must end with its host and port: reserved characters in a password are written as %2F")
        # libpq ends the password at the first one, and what follows could be shown as a name.
        if parts.scheme.startswith("postgres") and (text.count("@") > 1 or "@" in text.replace(parts.netloc, "", 1)):
            raise ValueError("may hold one @, before its host: anywhere else it is written as %40")
        if parts.scheme == "sqlite" and not re.fullmatch(r"sqlite:///(?!:memory:)[^?#\x00-\x1f]+", text):
            raise ValueError("must name a file, and nothing else: sqlite:////absolute/path or sqlite:///relative/path")
        return text

    return BeforeValidator(check)


def _public_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ValueError("must start with https: (http: is for this machine only)")
    if "@" in parts.netloc:
        raise ValueError("must hold no user and no password: everybody may read it")
    if not re.fullmatch("[!#-;=?-~]+", text):
        raise ValueError("must be a URL in ASCII, where anything else is written as %20 and xn--")
    return text


def _base_url(text: str) -> str:
    # A link is this URL with a path.
    if not re.fullmatch(r"[!\$-;=A-~]+", text) or "@" in text:
        raise ValueError("must be a URL in ASCII without user, password, query and fragment: paths are added to it")
    return text


def _folder(text: str) -> Path:
    if not os.path.isdir(text) or not os.access(text, os.R_OK | os.X_OK):
        raise ValueError("must be a folder that is there, and can be read")
    return Path(text)


def _redis_url(text: str) -> str:
    read_redis_url(text, {}, self_signed=platform_signs())
    return text


def _needed_by(other: str) -> WrapValidator:
    """For a field below `other`, with validate_default: a field that is not given is not checked any further."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if value:
            return validate(value)
        if info.data.get(other, True):  # a setting that is refused itself is missing here
            raise ValueError(f"must be set, as {other.upper()} is")
        return value

    return WrapValidator(check)


def _of_the_keys_mode(publishable: SecretStr, info: ValidationInfo) -> SecretStr:
    modes = {key.get_secret_value().split("_")[1] for key in (publishable, info.data.get("stripe_api_key")) if key}
    if len(modes) > 1:
        raise ValueError("must be of the mode of STRIPE_API_KEY, test or live")
    return publishable


def _stripes_own(url: str, info: ValidationInfo) -> str:
    key = info.data.get("stripe_api_key")
    # rule: Stripe.js comes from Stripe's own origin, or with a test key also from this machine
    allowed = _LOCAL_STRIPE_JS if key and key.get_secret_value()[3:].startswith("test_") else _STRIPE_JS
    if not re.fullmatch(allowed, url, re.ASCII):
        raise ValueError("must start with https://js.stripe.com/ (another one is for this machine, with a test key)")
    return url


def _named_once(users: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if len({user.get_secret_value().partition(":")[0] for user in users}) < len(users):
        raise ValueError("must name each user once")
    return users


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


_WITH_A_HOST = ("https", "http", "smtp", "smtps", "redis", "rediss")
_NOTHING_BEHIND = ("smtp", "smtps")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_BELOW = r"/[\w./-]*(\?advancedFraudSignals=false)?"
_STRIPE_JS = rf"https://js\.stripe\.com{_BELOW}"
_LOCAL_STRIPE_JS = rf"{_STRIPE_JS}|https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?{_BELOW}"
_SEVERAL = BeforeValidator(_parts)
_OF_THE_KEYS_MODE = AfterValidator(_of_the_keys_mode)
_UNSET = SecretStr("")
# The signals tell Stripe the page's address, which has the link in it; its guides want them for payments.
_QUIET_STRIPE_JS = SecretStr("https://js.stripe.com/v3/?advancedFraudSignals=false")
_EVEN_UNSET = Field(validate_default=True)
_WebUrl = Annotated[SecretStr, _url("https", "http")]
_BaseUrl = Annotated[SecretStr, BeforeValidator(_base_url), _url("https", "http")]
_PublicUrl = Annotated[SecretStr, BeforeValidator(_public_url), _url("https", "http")]
_Address = Annotated[Address, BeforeValidator(parse_address)]
_WebhookSecret = Annotated[
    SecretStr,
    _matching(r"whsec_[!-~]{8,}", "must be one or several signing secrets that start with whsec_, separated by commas"),
]
_CallbackSecret = Annotated[
    SecretStr,
    _matching(
        r"whsec_([A-Za-z0-9+/]{4}){8,}([A-Za-z0-9+/]{2,3}={0,2})?",
        "must be whsec_ and a key of 24 bytes or more in base64, as the Standard Webhooks scheme has it",
    ),
]
_Name = Annotated[
    str,
    _matching(
        rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_TURNING}]{{1,80}}",  # and no letter that ends a line
        "must be a name of one line, of 80 characters or less",
    ),
]
_Color = Annotated[str, _matching("#[0-9A-Fa-f]{6}", "must be a colour as #1a5fb4 is")]
_Language = Annotated[
    str,
    _matching(
        r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}",
        "must be one or several languages, the one of who asks for none first: en,de,pt-BR",
    ),
]
_Mark = Annotated[
    str,
    _matching(
        r"vf_\w+|[^=\s]([^=]{0,38}[^=\s])?=\S.{0,499}",
        "must be one or several marks, separated by commas: key=value of a session's metadata, or a flow's vf_…",
    ),
]
_FernetKey = Annotated[
    SecretStr,
    _matching(
        r"[A-Za-z0-9+/_-]{43}=",
        "must be one or several Fernet keys (32 bytes in URL-safe base64), the newest first",
    ),
]
_ApiToken = Annotated[
    SecretStr,
    _matching(r"[\w.-]{1,64}:[!-~]{32,}", "must be one or several tokens, name:secret, of 32 characters or more each"),
]
_LinkKey = Annotated[
    SecretStr,
    _matching(r"[!-~]{32,}", "must be one or several keys of 32 characters or more each, the newest first"),
]
_ConsoleUser = Annotated[
    SecretStr,
    _matching(
        r"[A-Za-z0-9_.-]{1,64}:(look|mend):[A-Za-z0-9_-]{64}",
        "must be one or several users, separated by commas, as python -m worker console-user prints them",
    ),
]
_Origin = Annotated[
    str,
    _matching(
        r"https?://[a-z0-9.-]+(:\d+)?|(?!(https?|javascript|data|file|blob|vbscript):)[a-z][a-z0-9+.-]*:",
        "must be one or several origins, https://app.example.com, or an app's own scheme, myapp:",
    ),
]
_CspOrigin = Annotated[
    str,
    _matching(
        r"https://(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?", "must be one or several origins, https://frames.example.com"
    ),
]
_StaticLink = Annotated[
    str,
    _matching(
        r"[\w.-]+=https?://[A-Za-z0-9.-]+(:\d+)?([/?#][^\s,]*)?", "must be one or several static links, name=https://…"
    ),
]
# VerificationSession.VerifiedOutputs of stripe-python 16.1.0.
_Output = Literal[
    "address",
    "dob",
    "email",
    "first_name",
    "id_number",
    "id_number_type",
    "last_name",
    "phone",
    "sex",
    "unparsed_place_of_birth",
    "unparsed_sex",
]

_FEW = 4  # letters: a list of passwords keeps one of 65,536, which is too many to know a weak one by
_LONG = 7  # letters: PORT is a slip away from words of others

# Heroku's dyno metadata tells the first, formerly the second; builds elsewhere tell the third.
COMMIT_NAMES = ("HEROKU_BUILD_COMMIT", "HEROKU_SLUG_COMMIT", "SOURCE_VERSION")


class Settings(BaseSettings):
    """The environment as values, in the order of docs/settings.md, which repeats the defaults.

    A SecretStr is shown nowhere; each URL is one, since it may hold a password.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        alias_generator=str.upper,
        case_sensitive=True,
        enable_decoding=False,  # of JSON: several values are separated by commas
        validate_default=False,
        hide_input_in_errors=True,
    )

    database_url: Annotated[SecretStr, _url("postgres", "postgresql", "sqlite")] = _UNSET
    redis_url: Annotated[SecretStr, BeforeValidator(_redis_url)] = _UNSET
    stripe_webhook_secret: Annotated[tuple[_WebhookSecret, ...], _SEVERAL] = ()
    stripe_api_key: Annotated[
        SecretStr, _matching(r"[sr]k_(test|live)_\w+", "must be a secret or restricted key: sk_test_…, rk_live_…")
    ] = _UNSET
    our_sessions: Annotated[tuple[_Mark, ...], _SEVERAL] = ()
    stripe_api_base: _WebUrl = SecretStr("https://api.stripe.com")
    smtp_url: Annotated[SecretStr, _url("smtp", "smtps", "file")] = _UNSET
    mail_from: _Address = Address("Identity verification", "identity@localhost")
    brand_name: _Name = ""
    brand_color: _Color = "#1a5fb4"
    brand_logo_url: _PublicUrl = _UNSET
    support_email: _Address | None = None
    privacy_url: _PublicUrl = _UNSET
    alternative_url: _PublicUrl = _UNSET
    locales: Annotated[tuple[_Language, ...], _SEVERAL] = ("en", "de")
    templates_dir: Annotated[Path, BeforeValidator(_folder)] | None = None
    retry_url: Annotated[
        _WebUrl,
        _matching(
            r"([^{}]|{session_id}|{client_reference_id})*",
            "may only hold the placeholders {session_id} and {client_reference_id}",
        ),
    ] = _UNSET
    reminder_hours: Annotated[int, Field(ge=1, le=720)] = 0  # none
    email_lookup: Annotated[str, _matching(r"[\w.]+:\w+", "must name a callable as package.module:function")] = ""
    review_email: _Address | None = None
    submission_limit: Annotated[int, Field(ge=1, le=1000)] = 3
    app_callback_url: _WebUrl = _UNSET
    app_callback_secret: Annotated[_CallbackSecret, _needed_by("app_callback_url"), _EVEN_UNSET] = _UNSET
    verified_outputs: Annotated[tuple[_Output, ...], _SEVERAL] = ()
    verified_outputs_key: Annotated[tuple[_FernetKey, ...], _SEVERAL, _needed_by("verified_outputs"), _EVEN_UNSET] = ()
    stripe_restricted_key: Annotated[
        SecretStr,
        _matching(r"rk_(test|live)_\w+", "must be a restricted key: rk_test_… or rk_live_…"),
        _needed_by("verified_outputs"),
        _EVEN_UNSET,
    ] = _UNSET
    verified_outputs_days: Annotated[int, Field(ge=1, le=3650)] = 30
    event_attempts: Annotated[int, Field(ge=1, le=1000)] = 8
    action_attempts: Annotated[int, Field(ge=1, le=10000)] = 100
    action_threads: Annotated[int, Field(ge=1, le=1000)] = 0  # half of the worker's
    database_pool: Annotated[int, Field(ge=1, le=1000)] = 0  # as many as its process needs
    backoff_seconds: Annotated[int, Field(ge=1, le=86400)] = 60
    reconcile_seconds: Annotated[int, Field(ge=60, le=86400)] = 900  # at most 300 requests a run, 400 after a failover
    api_tokens: Annotated[tuple[_ApiToken, ...], _SEVERAL] = ()
    stripe_publishable_key: Annotated[
        SecretStr,
        _matching(r"pk_(test|live)_\w+", "must be a publishable key: pk_test_… or pk_live_…"),
        _OF_THE_KEYS_MODE,
    ] = _UNSET
    stripe_js_url: Annotated[SecretStr, BeforeValidator(_stripes_own)] = _QUIET_STRIPE_JS
    csp_extra: Annotated[tuple[_CspOrigin, ...], _SEVERAL] = ()
    return_origins: Annotated[tuple[_Origin, ...], _SEVERAL] = ()
    static_links: Annotated[tuple[_StaticLink, ...], _SEVERAL] = ()
    openings_per_day: Annotated[int, Field(ge=1, le=1000)] = 5
    link_keys: Annotated[tuple[_LinkKey, ...], _SEVERAL] = ()
    link_days: Annotated[int, Field(ge=1, le=365)] = 7
    console_users: Annotated[tuple[_ConsoleUser, ...], AfterValidator(_named_once), _SEVERAL] = ()
    console_keys: Annotated[tuple[_LinkKey, ...], _SEVERAL, _needed_by("console_users"), _EVEN_UNSET] = ()
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    record_days: Annotated[int, Field(ge=1, le=36500)] = 0  # for ever
    audit_days: Annotated[int, Field(ge=1, le=36500)] = 365
    backlog_seconds: Annotated[int, Field(ge=1, le=86400)] = 300
    metrics_token: Annotated[
        SecretStr, _matching(r"[\w.~+/-]{16,}=*", "must be 16 characters or more: letters, digits, or one of -._~+/")
    ] = _UNSET
    public_url: _BaseUrl = _UNSET
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    trusted_proxies: int = Field(ge=0, le=10, default_factory=lambda: int("DYNO" in os.environ))  # Heroku's router
    var_dir: Path = Path("var")
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(str.lower)] = "auto"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)] = "info"
    sentry_dsn: _WebUrl = _UNSET

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, variables: dict[str, str]) -> dict[str, str]:
        """An empty variable counts as unset."""
        return {name: text.strip() for name, text in variables.items() if text.strip()}

    @property
    def embedded_database(self) -> bool:
        """Whether the SQLite file under VAR_DIR is in use because no DATABASE_URL is set."""
        return not self.database_url

    @property
    def embedded_file(self) -> Path:
        """The absolute path of that file."""
        return (self.var_dir / "identity.db").absolute()

    @property
    def on_postgres(self) -> bool:
        """Whether DATABASE_URL leads to PostgreSQL; else it is a SQLite file's."""
        return self.database_url.get_secret_value().startswith("postgres")

    @cached_property
    def mails_are_files(self) -> bool:
        """Whether mails are written as files: as SMTP_URL says, or without one if the database is a file, too."""
        url = self.smtp_url.get_secret_value()
        return url.startswith("file:") or not (url or self.on_postgres)

    @cached_property
    def mails_go_out(self) -> bool:
        """Whether mails are sent or written."""
        return bool(self.smtp_url) or self.mails_are_files

    @property
    def livemode(self) -> bool | None:
        """Whether STRIPE_API_KEY is for live mode; None without a key."""
        key = self.stripe_api_key.get_secret_value()
        return key.partition("_")[2].startswith("live_") if key else None

    @property
    def company(self) -> str:
        """The company's name in mails and pages: BRAND_NAME, or MAIL_FROM's name, or its domain."""
        return self.brand_name or self.mail_from.name or self.mail_from.mailbox.rpartition("@")[2]

    @property
    def base_url(self) -> str:
        """This service's own URL: PUBLIC_URL, or this machine's port."""
        return self.public_url.get_secret_value() or f"http://127.0.0.1:{self.port}"

    @property
    def why_no_links(self) -> str:
        """The reason why no link to a page of ours may be made, or "": then there are pages, too."""
        if not self.stripe_api_key:
            return "STRIPE_API_KEY is not set"
        if not (self.link_keys or self.embedded_database):
            return "LINK_KEYS is not set"
        parts = urlsplit(self.base_url)
        # rule: with a live key nobody is sent to this machine
        if self.livemode and parts.hostname in LOOPBACK:
            return "PUBLIC_URL leads to this machine, which with a live key nobody who verifies can reach"
        # rule: a link goes over plain http only to this machine
        is_safe = parts.scheme == "https" or parts.hostname in LOOPBACK
        return "" if is_safe else "PUBLIC_URL is not https: whoever is on the way could read a link and use it"


@cache
def settings() -> Settings:
    """This process's settings. Raises SettingsError with all faults, in the order above."""
    try:
        return Settings()
    except ValidationError as error:
        sentences = dict.fromkeys(map(_sentence, error.errors()))
    # Not inside the block above: pydantic's error holds the values, and must not be the context of ours.
    raise SettingsError("\n".join(sentences))


def fingerprints() -> dict[str, str]:
    """A few letters for each setting that is not at its default: they tell two values apart, and help nobody to guess
    one.
    """
    given = [name for name, field in Settings.model_fields.items() if getattr(settings(), name) != field.default]
    texts = {name.upper(): os.environ.get(name.upper(), "").strip() for name in given}
    return {name: sha256(f"{name}={text}".encode()).hexdigest()[:_FEW] for name, text in texts.items()}


def slips() -> dict[str, str]:
    """The settings that are not set, by those names in the environment that are none, and a slip away from one."""
    names = {name.upper() for name in Settings.model_fields}
    unset = [name for name in names if len(name) >= _LONG and not os.environ.get(name, "").strip()]
    return {given: name for given in sorted({*os.environ} - names) for name in unset if _is_slip(given.upper(), name)}


def _is_slip(given: str, name: str) -> bool:
    """Whether one letter too many, too few, wrong, or in its neighbour's place makes the difference, or none."""
    both = zip(given, name, strict=False)
    begin = next((place for place, (one, other) in enumerate(both) if one != other), min(len(given), len(name)))
    rest, wanted = given[begin:], name[begin:]
    is_swapped = rest[:2] == wanted[:2][::-1] and rest[2:] == wanted[2:]
    return is_swapped or rest[1:] == wanted[1:] or rest[1:] == wanted or rest == wanted[1:]


def use_database(url: str) -> None:
    """Gives this process another DATABASE_URL, which is validated when the settings are read."""
    os.environ["DATABASE_URL"] = url
    settings.cache_clear()


def _sentence(fault: ErrorDetails) -> str:
    name = str(fault["loc"][0]).upper()  # a default's is the field's own name
    field = Settings.model_fields[name.lower()]
    if field.annotation is int:
        least, most = field.metadata
        return f"{name} must be a whole number from {least.ge} to {most.le}"
    return f"{name} {fault['msg'].removeprefix('Value error, ').replace('Input should', 'must')}"


def running_commit() -> str:
    """The commit that runs, where the platform tells it; it is no setting, since nobody sets it."""
    return next((os.environ[name] for name in COMMIT_NAMES if os.environ.get(name)), "")


def running_dyno() -> str:
    """This process's dyno, such as `run.1234`, if the platform is Heroku; it is no setting either."""
    return os.environ.get("DYNO", "")


def platform_signs() -> bool:
    """Whether the platform signs its servers' certificates itself, as Heroku does; it is no setting of ours."""
    return bool(running_dyno())
