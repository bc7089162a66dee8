"""The web process: the installation's metrics, health, status page and API; it only reads."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import structlog
import waitress
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from aggregator.errors import AggregatorError
from aggregator.serving.installation import InstallationMetrics
from aggregator.serving.listen import parse_listen, refusal
from aggregator.serving.observer import Addresses, Observer
from aggregator.serving.pages import render_page
from aggregator.serving.range_api import RangeApi
from aggregator.serving.responses import Response, json_error, json_response, text_response
from aggregator.serving.status import plain
from aggregator.serving.summaries_api import SummariesApi

log = structlog.get_logger(__name__)

THREADS = 4
MOST_CONNECTIONS = 64
BACKLOG = 128
CHANNEL_TIMEOUT_SECONDS = 20
SUMMARIES_PATH = "/api/v1/summaries/"

StartResponse = Callable[[str, list[tuple[str, str]]], object]
Environment = Mapping[str, Any]


class Web:
    """The WSGI application."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._summaries = SummariesApi(observer)
        self._routes: dict[str, Callable[[Environment], Response]] = {
            "/": self._page,
            "/metrics": self._metrics,
            "/-/healthy": lambda _environment: text_response("ok"),
            "/-/ready": self._ready,
            "/api/v1/status": lambda _environment: json_response(self._observer.status().document()),
            "/api/v1/range": RangeApi(observer).answer,
            "/api/v1/summaries": lambda _environment: self._summaries.all(),
        }

    def __call__(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; a fault of ours is a 500 without its details, which are logged."""
        try:
            response = self._respond(environment)
        except Exception:
            log.exception("request_failed", path=environment["PATH_INFO"])
            response = json_error("this request failed; the log of web says why", HTTPStatus.INTERNAL_SERVER_ERROR)
        headers, body = response.encoded(environment.get("HTTP_ACCEPT_ENCODING", ""))
        start_response(f"{response.status.value} {response.status.phrase}", headers)
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    def _respond(self, environment: Environment) -> Response:
        path = environment["PATH_INFO"]
        if environment["REQUEST_METHOD"] not in ("GET", "HEAD"):
            refused = json_error("only GET and HEAD: nothing can be changed here", HTTPStatus.METHOD_NOT_ALLOWED)
            return Response(refused.status, refused.body, refused.content_type, headers=(("Allow", "GET, HEAD"),))
        if path in self._routes:
            return self._routes[path](environment)
        if path.startswith(SUMMARIES_PATH):
            return self._summaries.one(unquote(path.removeprefix(SUMMARIES_PATH)), environment)
        return json_error("there is nothing here; the page is at /", HTTPStatus.NOT_FOUND)

    def _page(self, _environment: Environment) -> Response:
        status = self._observer.status()
        try:
            summaries = self._observer.stored_summaries() if status.health else []
        except AggregatorError:
            summaries = []  # the status says what is wrong with the database
        return render_page(status.document(), plain(summaries))

    def _metrics(self, environment: Environment) -> Response:
        registry = CollectorRegistry()
        registry.register(InstallationMetrics(*self._observer.observe()))
        encoder, content_type = choose_encoder(environment.get("HTTP_ACCEPT", ""))
        return Response(HTTPStatus.OK, encoder(registry), content_type)

    def _ready(self, _environment: Environment) -> Response:
        try:
            fault = self._observer.schema_fault()
        except AggregatorError as error:
            fault = str(error)
        return text_response(fault, HTTPStatus.SERVICE_UNAVAILABLE) if fault else text_response("ready")


def open_web(listen: str, observer: Observer) -> Any:  # noqa: ANN401 - waitress publishes no types
    """A server that is bound and not yet serving; `run()` serves, `close()` ends it.

    Raises EnvironmentRefusedError where the port is taken or the address is not this machine's.
    """
    return waitress.create_server(
        Web(observer),
        sockets=[_bound(listen)],
        threads=THREADS,
        connection_limit=MOST_CONNECTIONS,
        channel_timeout=CHANNEL_TIMEOUT_SECONDS,
        asyncore_use_poll=True,
        ident=None,
    )


def _bound(listen: str) -> socket.socket:
    host, port = parse_listen(listen)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        remedy = "choose another"
        raise refusal(error, what="web", listen=listen, setting="AGGREGATOR_WEB_LISTEN", remedy=remedy) from None


def serve(listen: str, addresses: Addresses) -> None:
    """Serve until SIGTERM or SIGINT."""
    observer = Observer(addresses, application="aggregator web")
    server = open_web(listen, observer)
    signal.signal(signal.SIGTERM, _leave)
    log.info("web_started", listen=listen)
    try:
        server.run()  # ends quietly at SystemExit and KeyboardInterrupt
    finally:
        server.close()
        observer.close()


def _leave(_signal: int, _frame: object) -> None:
    raise SystemExit(0)
