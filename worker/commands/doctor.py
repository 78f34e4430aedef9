"""Checks the whole set-up: each thing one line, OK, WARN or FAIL, and what to do."""

import argparse
from contextlib import suppress
from dataclasses import asdict

from config import broker
from config.logs import configure_logging
from config.settings import SettingsError
from handlers.operator.checks import checks, examine
from worker.commands.printing import print_json, print_rows


def diagnose(arguments: argparse.Namespace) -> int:
    """0 unless something fails."""
    with suppress(SettingsError):  # the first finding
        configure_logging(is_silent=arguments.json)
    lines = list(examine(checks(broker.condition)))
    if arguments.json:
        print_json([asdict(line) for line in lines])
    else:
        print_rows([asdict(line) for line in lines], ("level", "what", "words"))
    return 1 if any(line.level == "FAIL" for line in lines) else 0
