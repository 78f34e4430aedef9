"""The command that checks the whole set-up: one line for each check, OK, WARN or FAIL, and what to do."""

import argparse
from contextlib import suppress
from dataclasses import asdict

from config import broker
from config.logs import configure_logging
from config.settings import SettingsError
from handlers.operator.checks import checks, examine
from worker.commands.printing import print_json, print_rows


def diagnose(arguments: argparse.Namespace) -> int:
    """Prints the checks; 1 when one of them fails."""
    with suppress(SettingsError):  # the first check finds the same
        configure_logging(is_silent=arguments.json)
    lines = list(examine(checks(broker.condition)))
    if arguments.json:
        print_json([asdict(line) for line in lines])
    else:
        print_rows([asdict(line) for line in lines], ("level", "what", "words"))
    return 1 if any(line.level == "FAIL" for line in lines) else 0
