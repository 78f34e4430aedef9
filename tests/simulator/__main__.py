"""python -m tests.simulator: serve, or drive the one that is running."""

import argparse
import json
import os
import sys
import urllib.error

from tests.simulator import serve
from tests.simulator.client import Simulator, SimulatorError
from tests.simulator.store import Json

PORT = 12111  # the one stripe-mock uses


def main() -> int:
    options = _parser().parse_args(_with_default(sys.argv[1:]))
    if options.command == "serve":
        serve.run(options)
        return 0
    try:
        answer = _ask(Simulator(options.base), options)
        sys.stdout.write((json.dumps(answer, indent=2) if options.json else _line(answer)) + "\n")
    except SimulatorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except urllib.error.URLError as error:
        sys.stderr.write(f"No local Stripe answers at {options.base} ({error.reason}): make stripe\n")
        return 1
    return 0


def _with_default(arguments: list[str]) -> list[str]:
    """Puts `serve` before arguments that name no command."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        return ["serve", *arguments]
    return arguments


def _ask(simulator: Simulator, options: argparse.Namespace) -> Json:
    if "session" in options and options.session == "last":
        options.session = simulator.last()
    match options.command:
        case "create":
            return simulator.session(
                simulator.create(
                    email=options.email, client_reference_id=options.reference, metadata=dict(options.metadata)
                )
            )
        case "fail":
            return simulator.fail(options.session, options.code)
        case "override":
            return simulator.override(options.session, options.to)
        case "redact":
            return simulator.redact(options.session)
        case "url":
            return {"url": simulator.url(options.session)}
        case "last":
            return {"id": simulator.last()}
        case "endpoint":
            return {"secret": simulator.endpoint(options.url, payload=options.payload)}
        case "run":
            return {"sessions": simulator.run(options.count, options.scenario)}
        case "truth":
            return simulator.truth()
        case "settled":
            return simulator.settled(options.wait)
        case action:
            return simulator.act(options.session, action)


def _line(answer: Json) -> str:
    """The line that a person reads of an answer; of a session, also its possible next steps."""
    if "status" not in answer:
        [value] = answer.values() if len(answer) == 1 else [answer]
        return value if isinstance(value, str) else json.dumps(value)
    code = (answer["last_error"] or {}).get("code")
    said = "  ".join(filter(None, (answer["id"], answer["status"], code, answer["redaction"] and "redacted")))
    step = None if answer["redaction"] else NEXT.get(answer["status"])
    return f"{said}  (next: {serve.COMMAND} {step} {answer['id']})" if step else said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_serve(commands.add_parser("serve", help="run it (the default)"))
    client = argparse.ArgumentParser(add_help=False)
    client.add_argument("--json", action="store_true", help="all of the answer")
    client.add_argument("--base", default=os.environ.get("STRIPE_API_BASE", f"http://127.0.0.1:{PORT}"))
    one = argparse.ArgumentParser(add_help=False, parents=[client])
    one.add_argument("session", metavar="vs_…|last", help="a session; last is the newest")
    for name in ("submit", "pass", "abandon", "decline-consent", "cancel", "redact", "url"):
        commands.add_parser(name, parents=[one], help=HELP[name])
    fail = commands.add_parser("fail", parents=[one], help="the checks fail with CODE")
    fail.add_argument("code", nargs="?", default="document_unverified_other", metavar="CODE")
    override = commands.add_parser("override", parents=[one], help="a reviewer decides otherwise")
    override.add_argument("--to", choices=("verified", "requires_input"))
    create = commands.add_parser("create", parents=[client], help="make a session")
    create.add_argument("--email")
    create.add_argument("--reference", help="client_reference_id")
    create.add_argument("--metadata", action="append", default=[], type=_pair, metavar="KEY=VALUE")
    commands.add_parser("last", parents=[client], help="the id of the newest session")
    endpoint = commands.add_parser("endpoint", parents=[client], help="register a webhook endpoint, print its secret")
    endpoint.add_argument("url")
    endpoint.add_argument("--payload", choices=("snapshot", "thin", "both"), default="snapshot")
    run = commands.add_parser("run", parents=[client], help="drive many sessions")
    run.add_argument("count", type=int)
    run.add_argument("scenario", nargs="?", default="mixed")
    commands.add_parser("truth", parents=[client], help="sessions, events and deliveries as they are")
    settled = commands.add_parser("settled", parents=[client], help="is anything still on its way")
    settled.add_argument("--wait", type=float, default=0.0, metavar="SECONDS")
    return parser


NEXT = {"requires_input": "pass", "processing": "pass", "verified": "redact", "canceled": "redact"}

HELP = {
    "submit": "documents are in, checks are running",
    "pass": "the checks succeed",
    "abandon": "the person leaves",
    "decline-consent": "the person declines to be verified by Stripe",
    "cancel": "cancel the session",
    "redact": "redact the session, at once",
    "url": "a fresh link to the page where a person picks the outcome",
}


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one")
    parser.add_argument("--speed", type=float, default=1.0, help="divides the pauses between delivery attempts")
    parser.add_argument("--seed", type=int, help="makes shuffling repeatable")
    parser.add_argument(
        "--unspaced", action="store_true", help="let changes of a session share a second, as scripts do"
    )
    parser.add_argument("--forward-to", metavar="URL", help="a webhook endpoint from the start")
    parser.add_argument("--secret", help="that endpoint's secret")
    parser.add_argument("--payload", choices=("snapshot", "thin", "both"), default="snapshot")


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
