"""Each setting: the values that it accepts and refuses; none shows a secret."""

import base64
import logging
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from config.settings import Address, Settings, SettingsError, settings, slips

Load = Callable[[Mapping[str, str]], Settings]

NAMES = [name.upper() for name in Settings.model_fields]
SECRETS = [name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
CALLBACK_KEY = base64.b64encode(bytes(range(24))).decode()
FERNET_KEY = base64.urlsafe_b64encode(bytes(range(224, 256))).decode()
COMPANIONS = {
    "APP_CALLBACK_URL": {"APP_CALLBACK_SECRET": f"whsec_{CALLBACK_KEY}"},
    "CONSOLE_USERS": {"CONSOLE_KEYS": "n" * 32},
    "VERIFIED_OUTPUTS": {"VERIFIED_OUTPUTS_KEY": FERNET_KEY, "STRIPE_RESTRICTED_KEY": "rk_test_abc123"},
}

GOOD = {
    "VAR_DIR": ("/tmp/x", Path("/tmp/x")),
    "DATABASE_URL": ("postgres://u:p@h:5432/d", "postgres://u:p@h:5432/d"),
    "REDIS_URL": ("rediss://:p@h:6379", "rediss://:p@h:6379"),
    "STRIPE_WEBHOOK_SECRET": (" whsec_12345678, whsec_abcdefgh,", ("whsec_12345678", "whsec_abcdefgh")),
    "STRIPE_API_KEY": ("rk_live_abc123", "rk_live_abc123"),
    "STRIPE_API_BASE": ("http://127.0.0.1:12111", "http://127.0.0.1:12111"),
    "SMTP_URL": ("smtps://u:p@mail.example.com:465", "smtps://u:p@mail.example.com:465"),
    "MAIL_FROM": ('"Us, Inc." <us@bücher.example>', Address("Us, Inc.", "us@xn--bcher-kva.example")),
    "BRAND_NAME": ('Müller & "Söhne", Inc.', 'Müller & "Söhne", Inc.'),
    "BRAND_COLOR": ("#FfDD00", "#FfDD00"),
    "BRAND_LOGO_URL": ("https://www.example.com/logo.png", "https://www.example.com/logo.png"),
    "SUPPORT_EMAIL": ("Help <help@example.com>", Address("Help", "help@example.com")),
    "PRIVACY_URL": ("https://example.com/privacy?a=%20#x", "https://example.com/privacy?a=%20#x"),
    "ALTERNATIVE_URL": ("http://localhost:3000/other", "http://localhost:3000/other"),
    "LOCALES": ("de, pt-BR,zh-Hant-TW", ("de", "pt-BR", "zh-Hant-TW")),
    "TEMPLATES_DIR": ("/tmp", Path("/tmp")),
    "RETRY_URL": (
        "https://example.com/{session_id}?u={client_reference_id}",
        "https://example.com/{session_id}?u={client_reference_id}",
    ),
    "REMINDER_HOURS": ("720", 720),
    "EMAIL_LOOKUP": ("a.b:c", "a.b:c"),
    "REVIEW_EMAIL": ("review@example.com", Address("", "review@example.com")),
    "SUBMISSION_LIMIT": ("1", 1),
    "APP_CALLBACK_URL": ("https://app.example.com/hook", "https://app.example.com/hook"),
    "APP_CALLBACK_SECRET": (f"whsec_{CALLBACK_KEY}", f"whsec_{CALLBACK_KEY}"),
    "STRIPE_RESTRICTED_KEY": ("rk_test_abc123", "rk_test_abc123"),
    "VERIFIED_OUTPUTS": ("first_name, dob", ("first_name", "dob")),
    "VERIFIED_OUTPUTS_KEY": (f"{FERNET_KEY},{FERNET_KEY}", (FERNET_KEY, FERNET_KEY)),
    "VERIFIED_OUTPUTS_DAYS": ("3650", 3650),
    "EVENT_ATTEMPTS": ("1", 1),
    "ACTION_ATTEMPTS": ("10000", 10000),
    "ACTION_THREADS": ("1", 1),
    "DATABASE_POOL": ("1000", 1000),
    "BACKOFF_SECONDS": ("86400", 86400),
    "RECONCILE_SECONDS": ("60", 60),
    "API_TOKENS": (f"shop:{'a' * 32},shop:{'b' * 32}", (f"shop:{'a' * 32}", f"shop:{'b' * 32}")),
    "STRIPE_PUBLISHABLE_KEY": ("pk_live_abc123", "pk_live_abc123"),
    "STRIPE_JS_URL": (
        "https://js.stripe.com/clover/stripe.js?advancedFraudSignals=false",
        "https://js.stripe.com/clover/stripe.js?advancedFraudSignals=false",
    ),
    "CSP_EXTRA": ("https://a.example:8443, https://*.b.example", ("https://a.example:8443", "https://*.b.example")),
    "RETURN_ORIGINS": ("https://app.example:8443, shop:", ("https://app.example:8443", "shop:")),
    "STATIC_LINKS": ("age=https://verify.stripe.com/x?a=b", ("age=https://verify.stripe.com/x?a=b",)),
    "OPENINGS_PER_DAY": ("1000", 1000),
    "LINK_KEYS": (f"{'n' * 32}, {'o' * 32}", ("n" * 32, "o" * 32)),
    "LINK_DAYS": ("365", 365),
    "CONSOLE_USERS": (f"a.b:look:{'-' * 64}, c:mend:{'_' * 64}", (f"a.b:look:{'-' * 64}", f"c:mend:{'_' * 64}")),
    "CONSOLE_KEYS": (f"{'n' * 32}, {'o' * 32}", ("n" * 32, "o" * 32)),
    "RETENTION_DAYS": ("1", 1),
    "RECORD_DAYS": ("36500", 36500),
    "AUDIT_DAYS": ("36500", 36500),
    "BACKLOG_SECONDS": ("86400", 86400),
    "METRICS_TOKEN": ("a-token/of.32+characters_or~more==", "a-token/of.32+characters_or~more=="),
    "PUBLIC_URL": ("https://hooks.example.com", "https://hooks.example.com"),
    "PORT": ("65535", 65535),
    "TRUSTED_PROXIES": ("10", 10),
    "OUR_SESSIONS": ("app=on=boarding, vf_1Abc", ("app=on=boarding", "vf_1Abc")),
    "LOG_FORMAT": ("JSON", "json"),
    "LOG_LEVEL": ("Debug", "debug"),
    "SENTRY_DSN": ("https://key@sentry.example.com/1", "https://key@sentry.example.com/1"),
}
BAD = [
    ("DATABASE_URL", "mysql://u:c4nary@h/d"),
    ("DATABASE_URL", "c4nary"),
    ("DATABASE_URL", "postgres://u:c4nary@[h/d"),
    ("DATABASE_URL", "postgres://u:c4nary/x@h/d"),
    ("DATABASE_URL", "postgres://u:c4nary\u2100@h/d"),
    ("DATABASE_URL", "postgres://h1:1,h2:c4nary/d"),
    ("DATABASE_URL", "postgres://u:12/c4nary@h/d"),
    ("DATABASE_URL", "postgres://u:p@c4nary@h/d"),
    ("DATABASE_URL", "postgres://u:p@ss?c4nary@h/d"),
    ("DATABASE_URL", "postgres://u:12?c4nary@h/d"),
    ("DATABASE_URL", "sqlite:c4nary.db"),
    ("DATABASE_URL", "sqlite://c4nary.db"),
    ("DATABASE_URL", "sqlite:///?c4nary"),
    ("DATABASE_URL", "sqlite:///c4nary.db?mode=ro&uri=true"),
    ("DATABASE_URL", "sqlite:///c4nary.db#frag"),
    ("DATABASE_URL", "sqlite:///:memory:c4nary"),
    ("DATABASE_URL", "sqlite:///c4nary\nx.db"),
    ("REDIS_URL", "amqp://u:c4nary@h"),
    ("REDIS_URL", "c4nary:6379"),
    ("REDIS_URL", "redis://:c4nary@h:0"),
    ("REDIS_URL", "redis://:c4nary@h:99999"),
    ("REDIS_URL", "memory://"),
    ("REDIS_URL", "redis://:c4nary@h1,h2"),
    ("REDIS_URL", "sentinel://:c4nary@h"),
    ("REDIS_URL", "rediss://:c4nary@h?ssl_cert_reqs=c4nary"),
    ("STRIPE_WEBHOOK_SECRET", "c4nary"),
    ("STRIPE_WEBHOOK_SECRET", "whsec_c4nary"),
    ("STRIPE_WEBHOOK_SECRET", "whsec_12345678,c4nary"),
    ("STRIPE_WEBHOOK_SECRET", "whsec_1234 5678c4nary"),
    ("STRIPE_WEBHOOK_SECRET", "c4nary,c4nary"),
    ("STRIPE_WEBHOOK_SECRET", ","),
    ("STRIPE_API_KEY", "pk_test_c4nary"),
    ("STRIPE_API_KEY", "sk_test_c4nary\nX: y"),
    ("OUR_SESSIONS", "c4nary"),
    ("OUR_SESSIONS", "=c4nary"),
    ("OUR_SESSIONS", "app =c4nary"),
    ("OUR_SESSIONS", "app= c4nary"),
    ("OUR_SESSIONS", "app=,vf_1"),
    ("STRIPE_API_BASE", "ftp://c4nary"),
    ("STRIPE_API_BASE", "https:"),
    ("STRIPE_API_BASE", "https:///c4nary"),
    ("SMTP_URL", "smtp://"),
    ("SMTP_URL", "smtp://u:c4nary@:587"),
    ("RETRY_URL", "https:example.com/{session_id}"),
    ("APP_CALLBACK_URL", "https://:8000/c4nary"),
    ("PUBLIC_URL", "https:hooks.example.com"),
    ("STRIPE_API_BASE", "https://u:c4nary@[h"),
    ("SMTP_URL", "http://u:c4nary@h"),
    ("SMTP_URL", "smtp://u:c4nary/x@h"),
    *(("SMTP_URL", f"smtp://u:12{sign}c4nary@h:587") for sign in "/?#"),
    ("SMTP_URL", "smtps://h:465?c4nary=1"),
    ("MAIL_FROM", "nobody"),
    ("MAIL_FROM", "a@b.example\r\nBcc: c@d.example"),
    ("MAIL_FROM", "C4nary, Inc. <c4nary@b.example>"),
    ("BRAND_NAME", "c4nary\nBcc: c@d.example"),
    ("BRAND_NAME", "c4nary\u202egnp.exe"),
    ("BRAND_NAME", "c4nary" * 20),
    ("BRAND_LOGO_URL", "http://c4nary.example/logo.png"),
    ("BRAND_COLOR", "red"),
    ("BRAND_COLOR", "#fd0"),
    ("BRAND_COLOR", "#12345g"),
    ("BRAND_COLOR", "#123456;background:url(c4nary)"),
    ("SUPPORT_EMAIL", "c4nary"),
    ("SUPPORT_EMAIL", "a@b.example, c4nary@b.example"),
    ("PRIVACY_URL", "http://c4nary.example"),
    ("PRIVACY_URL", "https://u:c4nary@h.example"),
    ("PRIVACY_URL", "https://u@h.example/c4nary"),
    ("PRIVACY_URL", "javascript:c4nary"),
    ("PRIVACY_URL", "https:///c4nary"),
    ("PRIVACY_URL", "https://[c4nary"),
    ("PRIVACY_URL", "https://h.example/c4nary here"),
    ("ALTERNATIVE_URL", "http://127.0.0.1.c4nary.example"),
    ("ALTERNATIVE_URL", 'https://h.example/"><script>c4nary'),
    ("ALTERNATIVE_URL", "c4nary"),
    ("LOCALES", "c4nary_1"),
    ("LOCALES", "en,../c4nary"),
    ("LOCALES", "en;de"),
    ("LOCALES", ","),
    ("TEMPLATES_DIR", "/no/c4nary"),
    ("RETRY_URL", "https://example.com/{user}"),
    ("RETRY_URL", "https://example.com/{}"),
    ("RETRY_URL", "https://example.com/{session_id"),
    ("RETRY_URL", "https://example.com/{session_id.__class__.x}"),
    ("RETRY_URL", "https://example.com/{session_id[0][x]}"),
    ("RETRY_URL", "https://example.com/{session_id.__class__}"),
    ("RETRY_URL", "https://example.com/{session_id:>99999}"),
    ("RETRY_URL", "https://example.com/{session_id!r}"),
    ("RETRY_URL", "javascript:{session_id}"),
    ("RETRY_URL", "https://u:c4nary/x@example.com/"),
    ("EMAIL_LOOKUP", "module.function"),
    ("EMAIL_LOOKUP", "a:b:c"),
    ("REVIEW_EMAIL", "c4nary"),
    ("REMINDER_HOURS", "0"),
    ("SUBMISSION_LIMIT", "0"),
    ("APP_CALLBACK_URL", "c4nary"),
    ("APP_CALLBACK_SECRET", "whsec_c4nary"),
    ("APP_CALLBACK_SECRET", "c4nary" * 10),
    ("APP_CALLBACK_SECRET", f"whsec_{CALLBACK_KEY[:-4]}"),
    ("APP_CALLBACK_SECRET", f"whsec_{CALLBACK_KEY}A"),
    ("APP_CALLBACK_SECRET", f"whsec_{CALLBACK_KEY}-_AA"),  # Standard Webhooks' library drops such signs
    ("STRIPE_RESTRICTED_KEY", "sk_test_c4nary"),
    ("VERIFIED_OUTPUTS", "first_name,shoe_size"),
    ("VERIFIED_OUTPUTS", ","),
    ("VERIFIED_OUTPUTS_KEY", "c4nary"),
    ("VERIFIED_OUTPUTS_KEY", f"{FERNET_KEY},c4nary"),
    ("VERIFIED_OUTPUTS_KEY", FERNET_KEY.rstrip("=")),  # Fernet takes none without its padding
    ("VERIFIED_OUTPUTS_DAYS", "0"),
    ("EVENT_ATTEMPTS", "many"),
    ("ACTION_ATTEMPTS", "0"),
    ("ACTION_THREADS", "0"),
    ("DATABASE_POOL", "0"),
    ("BACKOFF_SECONDS", "0"),
    ("RECONCILE_SECONDS", "59"),
    ("API_TOKENS", "c4nary" * 10),
    ("API_TOKENS", f"shop:{'c4nary' * 5}"),
    ("API_TOKENS", f"shop:{'a' * 32},c4nary"),
    ("STRIPE_PUBLISHABLE_KEY", "sk_test_c4nary"),
    ("RETURN_ORIGINS", "https://app.example/path"),
    ("RETURN_ORIGINS", "https://u:c4nary@app.example"),
    ("RETURN_ORIGINS", "https:"),
    ("STRIPE_JS_URL", "https://js.stripe.com.c4nary.example/v3/"),
    ("STRIPE_JS_URL", "https://js.stripe.com/v3/; c4nary"),
    ("STRIPE_JS_URL", "http://js.stripe.com/c4nary"),
    ("STRIPE_JS_URL", "https://js.stripe.com/v3/?c4nary=false"),
    ("STRIPE_JS_URL", "http://127.0.0.1:12111/js/c4nary.js"),  # needs a test key
    ("CSP_EXTRA", "https://c4nary.example/"),
    ("CSP_EXTRA", "https://*"),
    ("CSP_EXTRA", "https://a.example;script-src c4nary"),
    ("CSP_EXTRA", "'unsafe-inline'"),
    ("RETURN_ORIGINS", "javascript:"),
    ("STATIC_LINKS", "age=ftp://c4nary"),
    ("STATIC_LINKS", "age=https://[c4nary/x"),
    ("STATIC_LINKS", "age=https://c4nary\u2100/x"),
    ("OPENINGS_PER_DAY", "0"),
    ("LINK_KEYS", "c4nary"),
    ("LINK_KEYS", f"{'n' * 32},c4nary"),
    ("LINK_KEYS", f"{'n' * 32} c4nary"),
    ("LINK_DAYS", "0"),
    ("CONSOLE_USERS", "c4nary"),
    ("CONSOLE_USERS", f"anna:admin:{'c4nary00' * 8}"),
    ("CONSOLE_USERS", f"anna:look:{'c4nary$0' * 8}"),
    ("CONSOLE_USERS", f"anna:look:{'c4nary00' * 8},anna:mend:{'c4nary00' * 8}"),
    ("CONSOLE_KEYS", "c4nary"),
    ("RETENTION_DAYS", "0"),
    ("RECORD_DAYS", "0"),
    ("AUDIT_DAYS", "0"),
    ("BACKLOG_SECONDS", "0"),
    ("METRICS_TOKEN", "c4nary"),
    ("METRICS_TOKEN", "c4nary of many words"),
    ("PUBLIC_URL", "hooks.example.com"),
    ("PUBLIC_URL", "https://anna:c4nary@hooks.example.com"),
    ("PUBLIC_URL", "https://hooks.example.com/?of=c4nary"),
    ("PUBLIC_URL", "https://hooks.example.com/identity#c4nary"),
    ("PUBLIC_URL", "https://hooks.example.com/c4nary here"),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("PORT", "c4nary"),
    ("PORT", "8000.5"),
    ("PORT", "٣²"),
    ("TRUSTED_PROXIES", "-1"),
    ("TRUSTED_PROXIES", "11"),
    ("TRUSTED_PROXIES", "c4nary"),
    ("LOG_FORMAT", "xml"),
    ("LOG_LEVEL", "verbose"),
    ("SENTRY_DSN", "c4nary"),
]


@pytest.fixture
def load(environment: pytest.MonkeyPatch) -> Load:
    """The settings of a process that has these variables and no others."""

    def load(variables: Mapping[str, str]) -> Settings:
        for name in NAMES:
            environment.delenv(name, raising=False)
        for name, text in variables.items():
            environment.setenv(name, text)
        settings.cache_clear()
        return settings()

    return load


def _refusal(load: Load, variables: Mapping[str, str]) -> SettingsError:
    with pytest.raises(SettingsError) as refusal:
        load(variables)
    return refusal.value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def test_without_any_variable_the_defaults_hold(load: Load) -> None:
    assert load({}) == Settings.model_construct()


@pytest.mark.parametrize("name", GOOD)
def test_a_good_value_is_taken(load: Load, name: str) -> None:
    text, value = GOOD[name]
    assert _plain(getattr(load({name: text, **COMPANIONS.get(name, {})}), name.lower())) == value


def test_every_setting_has_its_examples_here() -> None:
    assert set(GOOD) == set(NAMES)
    assert {name for name, _ in BAD} == set(NAMES) - {"VAR_DIR"}  # VAR_DIR may have any value


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_is_refused_by_name_and_never_shown(load: Load, name: str, text: str) -> None:
    refusal = _refusal(load, {name: text, **COMPANIONS.get(name, {})})
    (line,) = str(refusal).splitlines()
    assert line.startswith(f"{name} ")
    assert "c4nary" not in line
    assert (refusal.__cause__, refusal.__context__) == (None, None)  # they would hold the value


def test_all_faults_are_said_at_once_and_in_order(load: Load) -> None:
    refusal = _refusal(load, dict(BAD))
    assert [line.split()[0] for line in str(refusal).splitlines()] == [name for name in NAMES if name != "VAR_DIR"]


def test_a_number_out_of_bounds_is_told_both(load: Load) -> None:
    for text in ("0", "65536", "many"):
        assert str(_refusal(load, {"PORT": text})) == "PORT must be a whole number from 1 to 65535"


@pytest.mark.parametrize("name", COMPANIONS)
def test_a_setting_that_needs_another_says_so_beside_other_faults(load: Load, name: str) -> None:
    for missing in COMPANIONS[name]:
        others = {other: value for other, value in COMPANIONS[name].items() if other != missing}
        for text in (GOOD[name][0], "c4nary"):
            lines = str(_refusal(load, {name: text, "PORT": "x", **others})).splitlines()
            assert f"{missing} must be set, as {name} is" in lines
            assert lines[-1].startswith("PORT ")


@pytest.mark.parametrize("name", GOOD)
def test_an_empty_variable_counts_as_unset(load: Load, name: str) -> None:
    assert load({name: ""}) == load({name: " "}) == Settings.model_construct()


def test_a_variable_that_is_no_setting_is_not_looked_at(load: Load) -> None:
    assert load({"DATABASE": "x", "port": "x"}) == Settings.model_construct()


def test_a_file_of_variables_is_not_read(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PORT=81\n")
    assert load({}).port == 8000


def test_settings_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load({}).port = 1


def test_without_a_database_url_a_file_under_var_dir_is_used(load: Load, tmp_path: Path) -> None:
    chosen = load({"VAR_DIR": str(tmp_path)})
    assert chosen.embedded_database
    assert chosen.embedded_file == tmp_path / "identity.db"
    assert not chosen.on_postgres
    assert load({"DATABASE_URL": "postgres://u:p@h1:1,h2:2/d"}).on_postgres


def test_the_public_url_is_where_the_service_is_reached(load: Load) -> None:
    assert load({"PORT": "81"}).base_url == "http://127.0.0.1:81"
    assert load({"PUBLIC_URL": "https://a.example"}).base_url == "https://a.example"


def test_on_heroku_its_router_is_trusted_unless_told_otherwise(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load({}).trusted_proxies == 0
    monkeypatch.setenv("DYNO", "web.1")
    assert load({}).trusted_proxies == 1
    assert load({"TRUSTED_PROXIES": "0"}).trusted_proxies == 0


def test_the_key_says_its_mode(load: Load) -> None:
    assert load({}).livemode is None
    assert load({"STRIPE_API_KEY": "sk_test_live_1"}).livemode is False
    assert load({"STRIPE_API_KEY": "rk_live_1"}).livemode is True


def test_a_publishable_key_is_of_the_secret_keys_mode(load: Load) -> None:
    keys = {"STRIPE_API_KEY": "sk_test_abc123", "STRIPE_PUBLISHABLE_KEY": "pk_live_abc123"}
    assert str(_refusal(load, keys)) == "STRIPE_PUBLISHABLE_KEY must be of the mode of STRIPE_API_KEY, test or live"
    assert load({**keys, "STRIPE_API_KEY": "rk_live_abc123"}).stripe_publishable_key


@pytest.mark.parametrize("url", ["http://127.0.0.1:12111/js/stripe.js", "http://[::1]/js", "https://localhost/a.js"])
def test_another_stripe_js_is_for_this_machine_with_a_test_key(load: Load, url: str) -> None:
    chosen = {"STRIPE_JS_URL": url}
    assert load({**chosen, "STRIPE_API_KEY": "rk_test_1"}).stripe_js_url.get_secret_value() == url
    assert "https://js.stripe.com/" in str(_refusal(load, {**chosen, "STRIPE_API_KEY": "sk_live_test_1"}))
    for other in ("http://127.0.0.1.example/js", "http://127.0.0.1@example.com/", "http://127.0.0.1/;x"):
        assert _refusal(load, {"STRIPE_JS_URL": other, "STRIPE_API_KEY": "sk_test_1"})


def test_what_may_hold_a_key_or_a_password_is_a_secret() -> None:
    assert [name for name in NAMES if re.search(r"URL|DSN|_BASE|SECRET|KEY|TOKEN|PASSWORD|USERS", name)] == SECRETS


@pytest.mark.parametrize("name", SECRETS)
def test_a_good_secret_is_not_shown(load: Load, name: str) -> None:
    text, value = GOOD[name]
    chosen = load({name: text, **COMPANIONS.get(name, {})})
    for shown in (str(chosen), repr(chosen), f"{getattr(chosen, name.lower())}", str(vars(chosen)), _dump(chosen)):
        for secret in value if isinstance(value, tuple) else (value,):
            assert secret not in shown


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("text", ["c4nary", "gopher://u:c4nary@h", "https://u:c4nary/x@h", "smtp://u:c4nary@[h"])
def test_a_bad_secret_is_not_shown_by_any_error(load: Load, name: str, text: str) -> None:
    refusal = _refusal(load, {name: text})
    with pytest.raises(ValidationError) as raw:
        Settings()
    for error in (refusal, raw.value):
        for shown in (str(error), repr(error), *traceback.format_exception(error)):
            assert "c4nary" not in shown


def test_no_switch_of_the_library_logs_what_it_read(
    load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    with caplog.at_level(logging.DEBUG):
        load({"STRIPE_API_KEY": "sk_test_c4nary"})
    assert "c4nary" not in caplog.text


def _dump(chosen: Settings) -> str:
    return f"{chosen.model_dump()} {chosen.model_dump_json()}"


@pytest.mark.parametrize("given", ["SMPT_URL", "SMTP_UR", "SMTP_URLL", "SMTP-URL", "smtp_url", "MTP_URL"])
def test_a_name_that_is_a_slip_away_from_a_setting_is_seen_unless_that_is_set(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMTP_URL", raising=False)
    monkeypatch.setenv(given, "smtp://mail.example.com")
    assert slips() == {given: "SMTP_URL"}
    monkeypatch.setenv("SMTP_URL", "smtp://mail.example.com")
    assert slips() == {}


@pytest.mark.parametrize("given", ["SMTP_HOST", "SMTP_URL_OLD", "PORTS", "REDIS_TLS_URL", "HEROKU_POSTGRESQL_PINK_URL"])
def test_a_name_of_others_is_no_slip(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(given, "x")
    assert given not in slips()
