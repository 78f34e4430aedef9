"""make bench-peers: deliveries accepted a second, beside the two Django applications that store Stripe's events.

Each peer is installed as it is published, and set up to look good: Django without middleware, database connections
that stay open, no handlers of a user's. It runs under gunicorn with one worker process, as ours is one, and as many
threads as served it best. All have databases of their own on the same PostgreSQL.

pinax-stripe-light stores the event. dj-stripe also retrieves the session from Stripe before it answers, and stores
that. Here the bench answers it, at once where Stripe's API takes its time, and with a session that has no report yet,
or dj-stripe would retrieve the report too. Its account and key are stored beforehand, so that it asks for neither.

Only answers that are a 2xx count, and the rows are counted afterwards. There are a few more rows than answers: at the
end of a round nobody waits for the answers still owed.
"""

import json
import subprocess
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from tests.bench import load, store
from tests.bench.load import SECRET
from tests.bench.report import Report, ratios
from tests.bench.servers import House, answers, free_port, house
from tests.support import shapes

_ENVIRONMENTS = Path("var/peers")
_DJANGO = ("Django==5.2.19", "gunicorn==27.0.1", "psycopg[binary]==3.3.9")  # Django 6 wants Python 3.12
_CONNECTIONS = 16
_ROUNDS = 3
_SECONDS = 3.0
_FASTEST = 45_000  # deliveries a second that no server here accepts: so many are signed for each second
_API_KEY = "sk_test_bench000000000000000000000"
_UUID = "6f1c1f0e-4a0b-4c55-9a37-2b8d1f0c9e11"

_SETTINGS = """
SECRET_KEY = "bench"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "{application}"]
ROOT_URLCONF = "urls"
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "{host}",
        "PORT": {port},
        "USER": "{user}",
        "NAME": "{name}",
        "CONN_MAX_AGE": None,
    }}
}}
"""
_URLS = """
from django.http import HttpResponse
from django.urls import include, path

urlpatterns = [
    path("healthz", lambda request: HttpResponse()),
    path("stripe/", include("{application}.urls")),
]
"""
_PINAX_SETTINGS = f"""
PINAX_STRIPE_PUBLIC_KEY = "pk_test_bench"
PINAX_STRIPE_SECRET_KEY = "{_API_KEY}"
PINAX_STRIPE_ENDPOINT_SECRET = "{SECRET}"
"""
_DJ_STRIPE_SETTINGS = f"""
DJSTRIPE_FOREIGN_KEY_TO_FIELD = "id"
STRIPE_TEST_SECRET_KEY = "{_API_KEY}"
"""
_DJ_STRIPE_ROWS = f"""
from djstripe.models import Account, APIKey, WebhookEndpoint

account = Account.objects.create(id="acct_1Bench")
APIKey.objects.create(secret="{_API_KEY}", type="secret", livemode=False, djstripe_owner_account=account)
WebhookEndpoint.objects.create(
    id="we_1Bench", djstripe_uuid="{_UUID}", secret="{SECRET}", url='https://example.com/stripe/webhook/{_UUID}/',
    enabled_events=["*"], status="enabled", livemode=False, djstripe_owner_account=account,
)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """The packages to install, their setup, the path that takes deliveries and the table that stores them."""

    name: str
    packages: tuple[str, ...]
    application: str
    settings: str
    rows: str = ""  # a script that stores the rows that it needs
    threads: int
    path: str
    table: str

    @property
    def python(self) -> Path:
        """The interpreter of its virtual environment."""
        return (_ENVIRONMENTS / self.name / "bin" / "python").absolute()


PEERS = (
    Peer(
        name="pinax-stripe-light",
        # stripe 13 has no stripe.error, and setuptools 82 no pkg_resources
        packages=("pinax-stripe-light==5.0.0", "stripe==12.5.1", "setuptools==80.9.0", *_DJANGO),
        application="pinax.stripe",
        settings=_PINAX_SETTINGS,
        threads=8,
        path="/stripe/webhook/",
        table="pinax_stripe_event",
    ),
    Peer(
        name="dj-stripe",
        packages=("dj-stripe==2.11.0", "stripe==15.6.2", *_DJANGO),
        application="djstripe",
        settings=_DJ_STRIPE_SETTINGS,
        rows=_DJ_STRIPE_ROWS,
        threads=4,
        path=f"/stripe/webhook/{_UUID}/",
        table="djstripe_event",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that takes deliveries, and the table that stores them."""

    name: str
    port: int
    path: str
    database: str
    table: str


def main() -> None:
    """Installs missing peers, measures, prints a table and writes JSON."""
    report = Report("make bench-peers")
    for peer in PEERS:
        install(report, peer)
    with ExitStack() as running:
        ours = running.enter_context(house())
        stripe = running.enter_context(_stripe())
        database = ours.database("ours")
        port, _ = running.enter_context(ours.web(database))
        servers = [Server(name="service", port=port, path=load.PATH, database=database, table="inbox_event")]
        servers += [running.enter_context(serve(ours, peer, stripe)) for peer in PEERS]
        compare(report, ours, servers)
    report.keep("installed", {peer.name: peer.packages for peer in PEERS})
    report.show()
    report.write(Path("var/bench-peers.json"))


def install(report: Report, peer: Peer) -> None:
    """Makes a virtual environment with exactly these versions, or uses the one that is there again."""
    folder, wanted = _ENVIRONMENTS / peer.name, "\n".join(peer.packages)
    installed = folder / "installed"
    if installed.exists() and installed.read_text() == wanted:
        return
    report.say(f"installing {peer.packages[0]} …")
    venv.create(folder, clear=True, with_pip=True)
    options = ("--quiet", "--disable-pip-version-check")
    subprocess.run([peer.python, "-m", "pip", "install", *options, *peer.packages], check=True)
    installed.write_text(wanted)


@contextmanager
def serve(house: House, peer: Peer, stripe: str) -> Iterator[Server]:
    """Runs the peer in a Django project of its own, migrated and ready."""
    database, port = house.bare_database(peer.name.replace("-", "_")), free_port()
    project = _project(house, peer, database, stripe)
    variables = {"PYTHONPATH": str(project), "DJANGO_SETTINGS_MODULE": "settings", "PYTHONWARNINGS": "ignore"}
    for arguments in (("migrate", "--skip-checks"), ("shell", "-c", peer.rows)):
        subprocess.run([peer.python, "-m", "django", *arguments], env=variables, check=True, stdout=subprocess.DEVNULL)
    options = ["--workers=1", f"--threads={peer.threads}", "--no-control-socket", f"--bind=127.0.0.1:{port}"]
    command = [str(peer.python), "-m", "gunicorn", *options, "django.core.wsgi:get_wsgi_application()"]
    with house.running(peer.name, command, variables) as process:
        process.wait(lambda: answers(port, "/healthz"))
        yield Server(name=peer.packages[0], port=port, path=peer.path, database=database, table=peer.table)


def _project(house: House, peer: Peer, database: str, stripe: str) -> Path:
    folder = house.folder / peer.name
    folder.mkdir()
    parts = urlsplit(database)
    settings = _SETTINGS.format(
        application=peer.application, host=parts.hostname, port=parts.port, user=parts.username, name=parts.path[1:]
    )
    (folder / "settings.py").write_text(f'{settings}{peer.settings}STRIPE_API_HOST = "{stripe}"\n')
    (folder / "urls.py").write_text(_URLS.format(application=peer.application))
    return folder


def compare(report: Report, house: House, servers: list[Server]) -> None:
    """Measures in turn: in each round one server after the other gets new deliveries, while the others are idle."""
    accepted: dict[str, int] = {server.name: 0 for server in servers}
    stored: dict[str, int] = {}
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    for number in range(_ROUNDS + 1):
        length = _SECONDS if number else 1.0  # the first round warms up, and does not count
        for server in servers:
            house.broker.flushall()
            requests = load.write(house.folder / "requests", f"R{number}x", int(_FASTEST * length), server.path)
            answered = load.post(server.port, requests, _CONNECTIONS, length)
            accepted[server.name] += answered.requests
            stored[server.name] = _settled(server)
            if number:
                rates[server.name].append(answered.rate)
    report.keep("accepted a second", rates)
    report.keep("accepted", accepted)
    report.keep("stored", stored)
    _add(report, rates, accepted, stored)


def _settled(server: Server) -> int:
    """The number of its rows, once the deliveries in flight at a round's end are stored: the next has both cores."""
    before, now = -1, store.count(server.database, server.table)
    while now != before:
        time.sleep(0.5)
        before, now = now, store.count(server.database, server.table)
    return now


def _add(report: Report, rates: dict[str, list[float]], accepted: dict[str, int], stored: dict[str, int]) -> None:
    ours = rates["service"]
    for name in list(rates)[1:]:
        report.add(
            f"accept, PostgreSQL, {_CONNECTIONS} connections",
            f"beside {name}",
            f"{median(ours):,.0f}/s",
            beside=f"{median(rates[name]):,.0f}/s",
            pairs=ratios(ours, rates[name]),
        )
    for name, rows in stored.items():
        report.add(
            "events stored, all rounds",
            name,
            f"{rows:,} rows",
            beside=f"{accepted[name]:,} answers",
            target="≥ answers",
            met=rows >= accepted[name],
        )


@contextmanager
def _stripe() -> Iterator[str]:
    """Runs Stripe's API for one kind of question; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Session)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class _Session(BaseHTTPRequestHandler):
    """GET /v1/identity/verification_sessions/…: the session, processing."""

    protocol_version = "HTTP/1.1"  # connections stay open
    wbufsize = -1  # head and body leave together, or the client's kernel waits 40 ms for the second

    def do_GET(self) -> None:
        session_id = self.path.partition("?")[0].rpartition("/")[2]
        body = json.dumps(shapes.session(session_id, "processing")).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the base class
        """Logs nothing."""


if __name__ == "__main__":
    main()
