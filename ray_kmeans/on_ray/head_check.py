"""Check within seconds whether the head of a Ray cluster answers; Ray itself waits for minutes.

The GCS of a head speaks gRPC. One call of it is made here over a plain socket: gRPC for Python need
not be installed where Ray is, and Ray's own client prints lines and waits for 40 seconds.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from threading import Thread

from ray_kmeans.errors import ClusterError, ConfigError
from ray_kmeans.text.secrets import redacted

RESOLVE_S = 6.0
"""Longest wait in seconds for a name server."""
CONNECT_S = 5.0
"""Longest wait in seconds for a connection; until then a refusal is asked again, because the head
may be just starting."""
ANSWER_S = 6.0
"""Longest wait in seconds for an answer over a connection."""
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Path of the call of gRPC that is made."""
DATA = 0
"""Kind of a frame of HTTP/2 that carries a part of a message."""
HEADERS = 1
"""Kind of a frame of HTTP/2 that carries the headers of a message."""
RESET = 3
"""Kind of a frame of HTTP/2 that ends one stream before its time."""
SETTINGS = 4
"""Kind of a frame of HTTP/2 that tells the limits of a peer."""
GOAWAY = 7
"""Kind of a frame of HTTP/2 that ends a whole connection."""
END_STREAM = 1
"""Flag of a frame of HTTP/2: the sender's last one in this stream."""
END_HEADERS = 4
"""Flag of a frame of HTTP/2: no more headers follow."""
NOT_IMPLEMENTED = b"grpc-status\x0212"
"""Header of an answer of gRPC that does not know the call."""
STATUS_200 = re.compile(rb"([\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f])*\x88")
"""Beginning of the headers of an answer in HPACK; a new size of its table may come before them."""
PLAIN = b"\0"
"""First byte of a message of gRPC that is not compressed."""


def check(address: str, said: str) -> None:
    """Raise ConfigError unless the GCS of a Ray head answers at HOST:PORT.

    `said` is what the user wrote, for the error.
    """
    host, port = _split_address(address, said)
    with _connect(host, port, said) as link:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # what follows would have to be encrypted: Ray finds out
        problem = _ask(link, f"{host}:{port}")
    if problem:
        raise ClusterError(
            f"{said}: {problem}. Give HOST:PORT of the head of a Ray cluster, as `ray start "
            "--head` prints it; without an address a Ray is started on this machine."
        )


def refuse_other_ways(address: str, said: str) -> None:
    """Raise ConfigError for a URL: a run joins Ray by HOST:PORT alone."""
    if "://" in address:
        raise ConfigError(
            f"{redacted(said)}: a run joins a Ray cluster at HOST:PORT of its head, on one of its "
            "machines, not by the URL of a Ray client or a job server. Give HOST:PORT there, or "
            "submit the command: ray job submit --address http://HEAD:8265 -- ray-kmeans ..."
        )


def _split_address(address: str, said: str) -> tuple[str, int]:
    """Return host and port of an address; raise ConfigError if it is not HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{redacted(said)} is not HOST:PORT of the head of a Ray cluster.")
    return host.strip("[]"), int(port)


def _connect(host: str, port: int, said: str) -> socket.socket:
    """Return an open connection; try again for a little while where it is refused."""
    end = time.monotonic() + CONNECT_S
    problem: OSError | None = None
    places = _resolve(host, port, said)
    while True:
        for family, place in places:
            link = socket.socket(family, socket.SOCK_STREAM)
            link.settimeout(max(end - time.monotonic(), 0.1))
            try:
                link.connect(place)
            except OSError as error:
                link.close()
                problem = error
            else:
                return link
        if time.monotonic() >= end or not isinstance(problem, ConnectionRefusedError):
            raise ClusterError(
                f"{said}: no Ray head answers there ({_reason(problem)}). If that head is gone, "
                "start it again, or give the address of another one; without an address (unset "
                "RAY_ADDRESS) a Ray is started on this machine."
            ) from None
        time.sleep(0.5)


def _reason(error: OSError | None) -> str:
    """Return a text of why a connection failed."""
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens on this port"
    if isinstance(error, TimeoutError):
        return f"no connection within {CONNECT_S:g} s"
    return str(error.strerror if error and error.strerror else error)


def _resolve(host: str, port: int, said: str) -> list[tuple[int, tuple[object, ...]]]:
    """Return (family, address) of a host, without waiting for a name server that is silent."""
    found: list[tuple[int, tuple[object, ...]]] = []
    problems: list[OSError] = []

    def look_up() -> None:
        try:
            known = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
            found.extend((int(family), place) for family, _, _, _, place in known)
        except OSError as error:
            problems.append(error)

    thread = Thread(target=look_up, name="resolve", daemon=True)
    thread.start()
    thread.join(RESOLVE_S)
    if not found:
        why = problems[0].strerror if problems else f"no answer within {RESOLVE_S:g} s"
        raise ClusterError(
            f"{said}: the name {host!r} is not known here ({why}). Give HOST:PORT of the head of a "
            "Ray cluster that this machine belongs to."
        )
    return list(found)


def _ask(link: socket.socket, authority: str) -> str:
    """Ask whether the GCS is alive; return the fault as text, or ''."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": ALIVE,
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    fields = b"".join(_field(name, value) for name, value in headers.items())
    link.settimeout(ANSWER_S)
    try:
        link.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, b"")
            + _frame(HEADERS, END_HEADERS, 1, fields)
            + _frame(DATA, END_STREAM, 1, bytes(5))  # a message without a byte
        )
        is_begun = False
        for kind, flags, stream, body in _frames(link):
            if stream == 1 and kind == DATA and body:
                if body.startswith(PLAIN):
                    return ""
                break  # a page, of a server of another kind
            if kind in (RESET, GOAWAY) or NOT_IMPLEMENTED in body:
                break
            if kind == HEADERS and not is_begun and not STATUS_200.match(body):
                break  # gRPC tells errors otherwise
            is_begun = is_begun or kind == HEADERS
            if stream == 1 and flags & END_STREAM:
                return ""  # a GCS that wants a token first, which Ray has
    except TimeoutError:
        return f"what listens there has not answered within {ANSWER_S:g} s"
    except OSError:
        pass
    return "what listens there is not the head of a Ray cluster"


def _field(name: str, value: str) -> bytes:
    """Return a header in the form of HPACK that refers to no table."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    return (
        struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
    )


def _frames(link: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (kind, flags, stream, body) of each frame of HTTP/2 that comes."""
    end = time.monotonic() + ANSWER_S
    data, is_http2 = b"", False
    while True:
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            length = int.from_bytes(data[:3], "big")
            yield data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]
            data = data[9 + length :]
        if time.monotonic() > end:
            raise TimeoutError
        more = link.recv(65536)
        if not more or len(data) > 2**20:
            raise ConnectionError
        data += more
        if not is_http2 and len(data) >= 4 and data[3] != SETTINGS:
            raise ConnectionError  # another protocol
        is_http2 = is_http2 or len(data) >= 4
