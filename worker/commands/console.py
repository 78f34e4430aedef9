"""The command that makes a user of the console."""

import argparse
import getpass
import secrets
import sys

from handlers.operator.console_users import USER_NAME, Role, hash_of

_LEAST = 12  # letters of a password that a person chooses


def user_options(parser: argparse.ArgumentParser) -> None:
    """Adds the user's name, their role, and whether they choose their password."""
    parser.add_argument("name", metavar="NAME", type=_name, help="letters, digits and _.- as the audit will show them")
    parser.add_argument(
        "--role", choices=[one.value for one in Role], default=Role.LOOK, help="look (the default), or also mend"
    )
    parser.add_argument("--ask", action="store_true", help="ask for a password, instead of making one")


def make_user(arguments: argparse.Namespace) -> int:
    """Prints the user's entry for CONSOLE_USERS, and the password if one was generated; 1 when a typed password is too
    short, or its repetition differs."""
    password = _asked() if arguments.ask else secrets.token_urlsafe(15)
    if password is None:
        return 1
    # A password without its entry would be of no use.
    print(f"{arguments.name}:{arguments.role}:{hash_of(password)}", flush=True)
    print("goes into CONSOLE_USERS, with a comma between two users.", file=sys.stderr)
    if not arguments.ask:
        print(f"The password is shown this once: {password}", file=sys.stderr)
    return 0


def _asked() -> str | None:
    password = getpass.getpass("Password: ")
    if len(password) < _LEAST:
        print(f"It needs {_LEAST} letters or more.", file=sys.stderr)
        return None
    if getpass.getpass("Once more: ") != password:
        print("Those were two.", file=sys.stderr)
        return None
    return password


def _name(text: str) -> str:
    if not USER_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("give up to 64 letters and digits, and _.-")
    return text
