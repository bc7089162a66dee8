"""Targets that ask for a certificate or for a secret: real TLS servers with certificates of their own."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import trustme

METRICS = b"# TYPE a_total counter\na_total 5\nb 1.5\n"


@dataclass(frozen=True)
class Certificates:
    """An authority, and files of a server's and a client's certificate that it has signed, below `folder`."""

    folder: Path
    authority: trustme.CA

    @classmethod
    def below(cls, folder: Path, *names: str) -> Certificates:
        """A new authority with a server's certificate for these names, and a client's."""
        folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for file, certificate in (
            ("server", authority.issue_cert(*names)),
            ("client", authority.issue_cert("client@example.org")),
        ):
            certificate.private_key_pem.write_to_path(folder / f"{file}.key")
            for place, part in enumerate(certificate.cert_chain_pems):
                part.write_to_path(folder / f"{file}.pem", append=place > 0)
        return cls(folder, authority)

    def __getattr__(self, name: str) -> str:
        """The path of a file: `ca`, `server`, `server_key`, `client`, `client_key`."""
        base, _, is_key = name.partition("_")
        return str(self.folder / f"{base}.{'key' if is_key else 'pem'}")

    def server_context(self, *, asks_clients: bool = False) -> ssl.SSLContext:
        """What a server needs; with `asks_clients` only a client with a certificate of this authority is served."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server, self.server_key)
        if asks_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


class Asking(BaseHTTPRequestHandler):
    """Serves metrics to whoever sends `wanted` as authorization; what was sent is in `seen`."""

    wanted: ClassVar[str | None] = None
    seen: ClassVar[list[str | None]] = []

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization")
        self.seen.append(sent)
        if self.wanted is not None and sent != self.wanted:
            self._send(401, b"who are you?\n")
        else:
            getattr(self, f"_{self.path.strip('/') or 'good'}", self._good)(sent or "")

    def _send(self, status: int, body: bytes, reason: str | None = None, **headers: str) -> None:
        self.send_response(status, reason)
        for name, value in {"Content-Type": "text/plain; version=0.0.4", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _good(self, _sent: str) -> None:
        self._send(200, METRICS)

    def _moved(self, sent: str) -> None:
        host, port = self.server.server_address[:2]
        self._send(302, b"", Location=f"http://{host!s}:{port}/{sent.rsplit(maxsplit=1)[-1]}")

    def _label(self, sent: str) -> None:
        self._send(200, f'a{{sent="{sent}"}} 1\n'.encode())

    def _text(self, sent: str) -> None:
        self._send(200, f"{sent} is what you have sent\n".encode())

    def _refused(self, sent: str) -> None:
        self._send(401, f"{sent} is wrong\n".encode(), reason=f"{sent} is wrong")

    def _reason(self, sent: str) -> None:
        self._send(500, b"", reason=f"do not send {sent}")

    def _long(self, sent: str) -> None:
        self._send(500, b"", reason="x" * 190 + sent.rsplit(maxsplit=1)[-1])

    def _type(self, sent: str) -> None:
        self._send(200, METRICS, **{"Content-Type": f"text/{sent.rsplit(maxsplit=1)[-1]}"})

    def _encoding(self, sent: str) -> None:
        self._send(200, METRICS, Content_Encoding=sent.rsplit(maxsplit=1)[-1])


@contextmanager
def asking_server(context: ssl.SSLContext | None = None, *, wanted: str | None = None) -> Iterator[int]:
    """The port, on loopback, of a server that serves over TLS where a context is given."""
    Asking.wanted = wanted
    Asking.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Asking)
    server.daemon_threads = True
    if context is not None:
        # The handshake is left to the thread of the connection: one that is refused must not end the server.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
