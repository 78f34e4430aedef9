"""Each setting: what it accepts, what it refuses, and that no refusal shows a secret."""

import base64
import dataclasses
from pathlib import Path

import pytest

from config.settings import Settings, SettingsError, load

CALLBACK_KEY = base64.b64encode(bytes(range(24))).decode()
FERNET_KEY = base64.urlsafe_b64encode(bytes(range(224, 256))).decode()
COMPANIONS = {
    "APP_CALLBACK_URL": {"APP_CALLBACK_SECRET": f"whsec_{CALLBACK_KEY}"},
    "VERIFIED_OUTPUTS": {"VERIFIED_OUTPUTS_KEY": FERNET_KEY, "STRIPE_RESTRICTED_KEY": "rk_test_abc123"},
}

GOOD = {
    "VAR_DIR": ("/tmp/x", Path("/tmp/x")),
    "DATABASE_URL": ("postgres://u:p@h:5432/d", "postgres://u:p@h:5432/d"),
    "REDIS_URL": ("rediss://:p@h:6379", "rediss://:p@h:6379"),
    "STRIPE_WEBHOOK_SECRET": ("whsec_12345678, whsec_abcdefgh", ("whsec_12345678", "whsec_abcdefgh")),
    "STRIPE_API_KEY": ("rk_live_abc123", "rk_live_abc123"),
    "STRIPE_API_BASE": ("http://127.0.0.1:12111", "http://127.0.0.1:12111"),
    "SMTP_URL": ("smtps://u:p@mail.example.com:465", "smtps://u:p@mail.example.com:465"),
    "MAIL_FROM": ("Us <us@example.com>", "Us <us@example.com>"),
    "RETRY_URL": (
        "https://example.com/{session_id}?u={client_reference_id}",
        "https://example.com/{session_id}?u={client_reference_id}",
    ),
    "EMAIL_LOOKUP": ("a.b:c", "a.b:c"),
    "REVIEW_EMAIL": ("review@example.com", "review@example.com"),
    "SUBMISSION_LIMIT": ("1", 1),
    "APP_CALLBACK_URL": ("https://app.example.com/hook", "https://app.example.com/hook"),
    "APP_CALLBACK_SECRET": (f"whsec_{CALLBACK_KEY}", f"whsec_{CALLBACK_KEY}"),
    "STRIPE_RESTRICTED_KEY": ("rk_test_abc123", "rk_test_abc123"),
    "VERIFIED_OUTPUTS": ("first_name, dob", ("first_name", "dob")),
    "VERIFIED_OUTPUTS_KEY": (f"{FERNET_KEY},{FERNET_KEY}", (FERNET_KEY, FERNET_KEY)),
    "VERIFIED_OUTPUTS_DAYS": ("3650", 3650),
    "EVENT_ATTEMPTS": ("1", 1),
    "ACTION_ATTEMPTS": ("10000", 10000),
    "BACKOFF_SECONDS": ("86400", 86400),
    "RECONCILE_SECONDS": ("60", 60),
    "RETENTION_DAYS": ("1", 1),
    "BACKLOG_SECONDS": ("86400", 86400),
    "PUBLIC_URL": ("https://hooks.example.com", "https://hooks.example.com"),
    "PORT": ("65535", 65535),
    "LOG_FORMAT": ("JSON", "json"),
    "LOG_LEVEL": ("Debug", "debug"),
}
BAD = [
    ("DATABASE_URL", "mysql://u:c4nary@h/d"),
    ("DATABASE_URL", "c4nary"),
    ("DATABASE_URL", "postgres://u:c4nary@[h/d"),
    ("DATABASE_URL", "postgres://u:c4nary/x@h/d"),
    ("DATABASE_URL", "postgres://u:c4nary\u2100@h/d"),
    ("REDIS_URL", "amqp://u:c4nary@h"),
    ("REDIS_URL", "c4nary:6379"),
    ("STRIPE_WEBHOOK_SECRET", "c4nary"),
    ("STRIPE_WEBHOOK_SECRET", "whsec_c4nary"),
    ("STRIPE_WEBHOOK_SECRET", "whsec_12345678,c4nary"),
    ("STRIPE_WEBHOOK_SECRET", "whsec_1234 5678c4nary"),
    ("STRIPE_WEBHOOK_SECRET", ","),
    ("STRIPE_API_KEY", "pk_test_c4nary"),
    ("STRIPE_API_KEY", "sk_test_c4nary\nX: y"),
    ("STRIPE_API_BASE", "ftp://c4nary"),
    ("SMTP_URL", "http://u:c4nary@h"),
    ("MAIL_FROM", "nobody"),
    ("MAIL_FROM", "a@b.example\r\nBcc: c@d.example"),
    ("RETRY_URL", "https://example.com/{user}"),
    ("RETRY_URL", "https://example.com/{}"),
    ("RETRY_URL", "https://example.com/{session_id"),
    ("RETRY_URL", "https://example.com/{session_id.__class__.x}"),
    ("RETRY_URL", "https://example.com/{session_id[0][x]}"),
    ("RETRY_URL", "https://example.com/{session_id.__class__}"),
    ("RETRY_URL", "https://example.com/{session_id:>99999}"),
    ("RETRY_URL", "https://example.com/{session_id!r}"),
    ("RETRY_URL", "javascript:{session_id}"),
    ("EMAIL_LOOKUP", "module.function"),
    ("EMAIL_LOOKUP", "a:b:c"),
    ("REVIEW_EMAIL", "c4nary"),
    ("SUBMISSION_LIMIT", "0"),
    ("APP_CALLBACK_URL", "c4nary"),
    ("APP_CALLBACK_SECRET", "whsec_c4nary"),
    ("APP_CALLBACK_SECRET", "c4nary" * 10),
    ("STRIPE_RESTRICTED_KEY", "sk_test_c4nary"),
    ("VERIFIED_OUTPUTS", "first_name,shoe_size"),
    ("VERIFIED_OUTPUTS_KEY", "c4nary"),
    ("VERIFIED_OUTPUTS_KEY", f"{FERNET_KEY},c4nary"),
    ("VERIFIED_OUTPUTS_DAYS", "0"),
    ("EVENT_ATTEMPTS", "many"),
    ("ACTION_ATTEMPTS", "0"),
    ("BACKOFF_SECONDS", "0"),
    ("RECONCILE_SECONDS", "59"),
    ("RETENTION_DAYS", "0"),
    ("BACKLOG_SECONDS", "0"),
    ("PUBLIC_URL", "hooks.example.com"),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("PORT", "8000.5"),
    ("PORT", "٣²"),
    ("LOG_FORMAT", "xml"),
    ("LOG_LEVEL", "verbose"),
]


def test_without_any_variable_the_defaults_hold() -> None:
    assert load({}) == Settings()


@pytest.mark.parametrize("name", GOOD)
def test_a_good_value_is_taken(name: str) -> None:
    text, value = GOOD[name]
    assert getattr(load({name: text, **COMPANIONS.get(name, {})}), name.lower()) == value


def test_every_setting_has_a_good_example_here() -> None:
    assert {field.name.upper() for field in dataclasses.fields(Settings)} >= set(GOOD)
    assert set(GOOD) >= {field.name.upper() for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_is_refused_by_name_and_never_shown(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load({name: text})
    assert str(refusal.value).startswith(f"{name} ")
    assert "c4nary" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize("name", COMPANIONS)
def test_a_setting_that_needs_another_says_so(name: str) -> None:
    for missing in COMPANIONS[name]:
        others = {other: value for other, value in COMPANIONS[name].items() if other != missing}
        with pytest.raises(SettingsError, match=f"{name} is set, and needs {missing}"):
            load({name: GOOD[name][0], **others})


@pytest.mark.parametrize("name", GOOD)
def test_an_empty_variable_counts_as_unset(name: str) -> None:
    assert load({name: " "}) == Settings()


def test_a_variable_that_is_no_setting_is_not_looked_at() -> None:
    assert load({"DATABASE": "x", "port": "x"}) == Settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load({}).port = 1  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_a_postgres_url_names_psycopg_for_sqlalchemy(scheme: str) -> None:
    assert load({"DATABASE_URL": f"{scheme}://u:p@h/d"}).sqlalchemy_url == "postgresql+psycopg://u:p@h/d"


def test_without_a_database_url_a_file_under_var_dir_is_used(tmp_path: Path) -> None:
    chosen = load({"VAR_DIR": str(tmp_path)})
    assert chosen.embedded_database
    assert chosen.sqlalchemy_url == f"sqlite:///{tmp_path}/identity.db"


def test_the_public_url_is_where_the_service_is_reached() -> None:
    assert load({"PORT": "81"}).base_url == "http://127.0.0.1:81"
    assert load({"PUBLIC_URL": "https://a.example"}).base_url == "https://a.example"


def test_settings_print_no_secret() -> None:
    chosen = load(
        {
            "DATABASE_URL": "postgres://u:c4nary@h/d",
            "REDIS_URL": "redis://:c4nary@h",
            "SMTP_URL": "smtp://u:c4nary@h",
            "STRIPE_API_KEY": "sk_test_c4nary",
            "STRIPE_WEBHOOK_SECRET": "whsec_c4nary_c4nary",
            "STRIPE_RESTRICTED_KEY": "rk_test_c4nary",
            "APP_CALLBACK_SECRET": f"whsec_{CALLBACK_KEY}",
            "APP_CALLBACK_URL": "https://u:c4nary@app.example.com/",
            "VERIFIED_OUTPUTS_KEY": FERNET_KEY,
        }
    )
    for secret in ("c4nary", CALLBACK_KEY, FERNET_KEY):
        assert secret not in repr(chosen)
