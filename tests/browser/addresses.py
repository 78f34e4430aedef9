"""Stripe's own addresses, led to the local Stripe, so that a page's policy is tried as production has it.

A browser is told by `rules` that every host of stripe.com is here; its requests there are noted.
"""

import http.client
import ssl
import subprocess
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

VERIFY = "https://verify.stripe.com"
STAND_IN = "/js/stripe.js"
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a browser."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: str


class Addresses:
    """The server behind these addresses, which runs while it is entered."""

    def __init__(self, folder: Path, local_stripe: str) -> None:
        self.asked: list[Asked] = []
        self._server = _Server(("127.0.0.1", 0), _Forwarder)
        self._server.daemon_threads = True
        self._server.addresses, self._server.behind = self, local_stripe.rpartition("/")[2]
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*_certificate(folder))
        # The connection's own thread makes the handshake: browsers open connections that they do not use.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        self.rules = f"MAP *.stripe.com:443 127.0.0.1:{self._server.server_port},MAP * ~NOTFOUND,EXCLUDE 127.0.0.1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    addresses: Addresses
    behind: str

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of a browser that goes away in the middle of a request."""


class _Forwarder(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60.0  # seconds, for a connection over which nothing comes

    def _forward(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host, headers = self.headers["Host"], dict(self.headers)
        self.server.addresses.asked.append(Asked(self.command, host, self.path, headers, content.decode()))
        # js.stripe.com has a script for each version; the local Stripe has one for all.
        is_script = host == "js.stripe.com" and not self.path.startswith("/js/")
        connection = http.client.HTTPConnection(self.server.behind, timeout=self.timeout)
        connection.request(self.command, STAND_IN if is_script else self.path, content, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_THE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    do_GET = do_POST = _forward  # noqa: N815 - http.server's names


def _certificate(folder: Path) -> tuple[Path, Path]:
    """The files of a certificate, signed by itself, and of its key; the browser is told not to mind."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=stripe.com", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
