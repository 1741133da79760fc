"""A proxy on whose way answers get lost: the network has done what was asked, and whoever asked does not hear of it.

It also delivers requests twice, as a client or a balancer does that was too quick to repeat itself.
"""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["ForgetfulProxy"]

HOPS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


READS = ("/v2/subscribe/", "/v2/stream/")
"""What changes nothing. An answer that goes on does not get through: each is gathered before it is passed on."""


class ForgetfulProxy:
    """Before the network on `port`. `lose` and `twice` are shares of the requests; `counts` says what it did."""

    def __init__(self, port: int, *, lose: float, twice: float, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._target, self._lose, self._twice = f"127.0.0.1:{port}", lose, twice
        self._chance, self._lock = random.Random(seed), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy._serve(self, body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any

            def log_message(self, *_: object) -> None:
                """Tests have their own words."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._address = f"127.0.0.1:{self._server.server_address[1]}"
        self.cdm_url = f"http://{self._address}/config.json"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        settled = request.path == "/config.json" or request.path.startswith(READS)
        with self._lock:
            lost, doubled = (self._chance.random() < share and not settled for share in (self._lose, self._twice))
        try:
            status, headers, content = self._forward(request, body)
            if doubled:
                self.counts["doubled"] += 1
                status, headers, content = self._forward(request, body)
        except (OSError, http.client.HTTPException):
            request.close_connection = True
            return
        if lost:
            self.counts["lost"] += 1
            request.close_connection = True
            return
        if settled:  # clients and agents are to come this way
            content = content.replace(self._target.encode(), self._address.encode())
        self.counts["answered"] += 1
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in HOPS:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        try:
            request.end_headers()
            request.wfile.write(content)
        except OSError:  # whoever asked has gone
            request.close_connection = True

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._target, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in HOPS}
            connection.request(request.command, request.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()
