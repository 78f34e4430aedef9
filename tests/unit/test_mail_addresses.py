"""The check of one mail address, and its result: its name, and its form in an envelope."""

import pytest

from config.settings import PLAIN_ADDRESS, parse_address


@pytest.mark.parametrize(
    ("text", "name", "mailbox"),
    [
        ("anna@example.com", "", "anna@example.com"),
        (" <anna@example.com> ", "", "anna@example.com"),
        ("Anna <anna@example.com>", "Anna", "anna@example.com"),
        ("Example Inc. (Team A) <id@example.com>", "Example Inc. (Team A)", "id@example.com"),
        ('"Example, Inc." <id@example.com>', "Example, Inc.", "id@example.com"),
        (r'"The \"Best\"" <id@example.com>', 'The "Best"', "id@example.com"),
        ("o'neil+x/y=z@sub.example.co.uk", "", "o'neil+x/y=z@sub.example.co.uk"),
        ("id@localhost", "", "id@localhost"),
        ("id@[192.168.0.1]", "", "id@[192.168.0.1]"),
        ("id@my_host.example", "", "id@my_host.example"),
        ('"a b"@example.com', "", '"a b"@example.com'),
        ("a..b@carrier.example", "", "a..b@carrier.example"),
        (".a.@carrier.example", "", ".a.@carrier.example"),
        ("jörg@bücher.example", "", "jörg@xn--bcher-kva.example"),
        ("id@BÜCHER.example", "", "id@xn--bcher-kva.example"),
        ("id@i❤.example", "", "id@xn--i-7iq.example"),
        (" anna@example.com\r\n", "", "anna@example.com"),
        ("id@straße.example", "", "id@xn--strae-oqa.example"),  # IDNA 2003 writes two s for it, which is another domain
        ("=?UTF-8?Q?M=C3=BCller?= GmbH <id@example.com>", "Müller GmbH", "id@example.com"),
        ('"=?utf-8?B?TcO8bGxlciwgSW5jLg==?=" <id@example.com>', "Müller, Inc.", "id@example.com"),
        ("=?latin1?q?a?= =?utf-8?q?b_=3C?= <id@example.com>", "ab <", "id@example.com"),
        ('"What =?" <id@example.com>', "What =?", "id@example.com"),
        ("Us \u202emoc.live \u2066<id@example.com>", "Us moc.live", "id@example.com"),
        ("=?utf-8?q?Us=E2=80=AE?= <id@example.com>", "Us", "id@example.com"),
        ("山田　太郎 <t@例え。テスト>", "山田　太郎", "t@xn--r8jz45g.xn--zckzah"),
    ],
)
def test_an_address_is_a_name_and_a_mailbox_whose_domain_is_ascii(text: str, name: str, mailbox: str) -> None:
    found = parse_address(text)
    assert (found.name, found.mailbox) == (name, mailbox)
    assert not PLAIN_ADDRESS.fullmatch(text) or (name, mailbox) == ("", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *(
            (text, "must be one address")
            for text in (
                "",
                "nobody",
                "@b.example",
                "a b@c.example",
                "<a@b.example",
                "a@b.example, c@d.example",
                "a@b.example; c@d.example",
                "undisclosed-recipients:;",
                "Team: a@b.example",
                "Doe, Jane <a@b.example>",
                "<a@b.example> <c@d.example>",
                "a@b.example <c@d.example>",
                "a@b@c.example",
                '"a <b@c.example>',
            )
        ),
        *((text, "whose domain") for text in ("a@", "a@b..example", "a@.b", "a@b c", "a@ü..example", "a@" + "b" * 64)),
        *(
            (text, "of one line")
            for text in (
                "a@b.example\r\nBcc: c@d.example",
                "a@b.example\nX: y",
                '"a\nb" <c@d.example>',
                "\0@b.example",
                "\ud800@b.example",
                "a\u2028@b.example",
                "a" * 500 + "@b.example",
                "=?utf-8?q?a=0D=0ABcc=3A_c=40d.example?= <a@b.example>",
                "=?utf-7?q?+AAo-?= <a@b.example>",
            )
        ),
        *(
            (f"{name} <a@b.example>", "its own letters")
            for name in (
                "=?none?q?b.example?=",
                "=?utf-8?q?b.example=FF?=",
                "=?utf-8?B?a?=",
                "=?rot13?q?a?=",
                "=?idna?q?xn--=?=",
                "ü=?utf-8?q?=C3=BC?=",
            )
        ),
        *((text, "nobody sees") for text in ("\ufeffa@b.example", "a\u200b@b.example", "Us <a\u202eb@b.example>")),
    ],
)
def test_what_is_not_one_address_is_refused_with_the_reason_and_not_shown(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        parse_address(text)
    assert not PLAIN_ADDRESS.fullmatch(text)
    assert "b.example" not in str(refusal.value)
    assert refusal.value.__cause__ is None
