"""The Stripe CLI's signing secret: always the same one for an account."""

import re
import shlex
import shutil
import subprocess

from config.settings import SettingsError

ANSWERS_WITHIN = 60.0  # seconds; it asks Stripe


def signing_secret(listen: str) -> str:
    """The secret with which the command `listen` signs. Raises SettingsError without the CLI, or without an account."""
    if not shutil.which("stripe"):
        raise SettingsError(
            "The Stripe CLI is not on PATH: install it (npm install --global @stripe/cli, or "
            "https://docs.stripe.com/stripe-cli/install), or forward events to `make run` in another way"
        )
    command = [*shlex.split(listen), "--print-secret"]
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=ANSWERS_WITHIN, check=False
        )
        (secret,) = re.findall(r"^whsec_[!-~]{8,}$", asked.stdout, re.MULTILINE)
    except (subprocess.TimeoutExpired, ValueError):
        raise SettingsError(
            "The Stripe CLI names no signing secret: set STRIPE_API_KEY to your sandbox's key, or run stripe login"
        ) from None
    return str(secret)
