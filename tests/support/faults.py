"""A proxy that fails a share of the requests to a store, the same ones every time."""

from __future__ import annotations

import http.client
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from random import Random
from threading import Lock
from urllib.parse import urlsplit

from tests.support.stores import serving

CODES = {403: "AccessDenied", 404: "NoSuchKey", 416: "InvalidRange", 429: "SlowDown"}
CODES |= {500: "InternalError", 503: "SlowDown"}
SAYS = "Please reduce your request rate."
ONWARD = "onward"
CUT = "cut before the answer"
LOST = "answer lost"
CUT_BODY = "cut in the body"
STALL = "stall"
DELAY = "delay"
SLOW_DOWN = 503
STALL_S = 1.0
"""Longer than the clients of the tests wait."""

Fate = Callable[[str], str | int]
"""What becomes of a request, by its method, path and range: one of the above, or a status."""


class Shares:
    """Fates drawn by a seed: `shares` of the requests meet each, all others go onward.

    A request that is made again is drawn anew, and what it meets does not depend on others.
    """

    def __init__(self, seed: int, shares: Mapping[str | int, float]) -> None:
        self._seed = seed
        self._shares = shares
        self._seen: Counter[str] = Counter()
        self._lock = Lock()
        self.met: Counter[str | int] = Counter()

    def __call__(self, request: str) -> str | int:
        with self._lock:
            self._seen[request] += 1
            draw = Random(f"{self._seed} {request} {self._seen[request]}").random()
            fate: str | int = ONWARD
            for each, share in self._shares.items():
                if draw < share:
                    fate = each
                    break
                draw -= share
            self.met[fate] += 1
        return fate


@contextmanager
def faulty(fate: Fate, upstream: str = ""):
    """Serve a proxy in front of a server; yield its endpoint."""

    class Handler(Proxy):
        pass

    Handler.fate = staticmethod(fate)
    Handler.upstream = urlsplit(upstream).netloc
    with serving(Handler) as endpoint:
        yield endpoint


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on, or does not."""

    protocol_version = "HTTP/1.1"
    fate: Fate
    upstream: str

    def answer(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        wanted = self.headers["Range"] or ""
        fate = self.fate(f"{self.command} {self.path} {wanted}".strip())
        if isinstance(fate, int):
            return self.refuse(fate)
        if fate == CUT:
            return self.cut()
        if fate == STALL:
            time.sleep(STALL_S)
            return self.cut()
        if fate == DELAY:
            time.sleep(0.1)
        status, headers, data = self.ask(body)
        if fate == LOST:
            return self.cut()
        return self.send(status, headers, data, len(data) // 2 if fate == CUT_BODY else None)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = answer

    def ask(self, body):
        """Return the answer of the server; it sees the Host that the client has signed."""
        if not self.upstream:
            headers = [("Content-Length", "10"), ("Content-Range", "bytes 0-9/100")]
            return 206, headers, b"0123456789"
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=1)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = [
                (name, value)
                for name, value in answer.getheaders()
                if name.lower() not in ("transfer-encoding", "connection", "content-length")
            ]
            data = answer.read()
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
            return answer.status, [*headers, ("Content-Length", str(length or 0))], data
        finally:
            connection.close()

    def refuse(self, status):
        code = CODES.get(status, "Error")
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SAYS}</Message></Error>"
        data = text.encode() if self.command != "HEAD" else b""
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(data)))]
        self.send(status, headers, data)

    def send(self, status, headers, data, sent=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:sent])
        if sent is not None and self.command != "HEAD":
            self.cut()

    def cut(self):
        """Reset the connection."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def log_message(self, *args):
        pass
