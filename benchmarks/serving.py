"""How long a request for the nearest centers takes, beside the same rows by predict in one call.

    python benchmarks/serving.py

Ray Serve on this machine with one replica; clients are threads of this process, which ask by HTTP
one request after the other, and share the machine's threads with the replica and the proxy.
Latency is from the first byte sent to the last one read; the first tenth of the requests is left
out. `direct`: rows per second of `KMeansClustering.predict` on all rows at once, in this process.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import tyro
from machine import say_where
from numpy.typing import NDArray
from ray import serve

from ray_kmeans import KMeansClustering, RunConfig, serving

HERE = RunConfig(num_workers=0, progress=False)


@dataclass(frozen=True)
class Options:
    """Measure requests of some rows by some clients."""

    k: int = 1024
    d: int = 384
    rows: tuple[int, ...] = (1, 64)
    """Of a request."""
    clients: tuple[int, ...] = (1, 8, 32)
    requests: int = 50
    """Of each client."""


def main(options: Options) -> None:
    """Measure, and print a table."""
    say_where("numpy", "ray")
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((options.k, options.d), np.float32)
    with tempfile.TemporaryDirectory() as place:
        km = KMeansClustering(options.k, place, centers, use_mini_batch=False, config=HERE)
        km.fit(np.repeat(centers, 2, axis=0), steps=1)
        port = _free_port()
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(serving.nearest(place, batch_wait_timeout_s=0.0), route_prefix="/")
        print(
            "| rows of a request | clients | median ms | 99 % ms | rows/s |\n|---|---|---|---|---|"
        )
        for rows in options.rows:
            for clients in options.clients:
                _measure(port, rng.standard_normal((rows, options.d), np.float32), clients, options)
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
        print(f"\ndirect: {_direct(km, rng.standard_normal((20_000, options.d), np.float32)):,.0f}")


def _measure(port: int, rows: NDArray[np.float32], clients: int, options: Options) -> None:
    body = json.dumps({"rows": rows.tolist()}).encode()
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(_ask, [(port, body, options.requests)] * clients))
    whole = time.perf_counter() - begin
    first = options.requests // 10
    times = sorted(1e3 * seconds for each in answers for seconds in each[first:])
    speed = clients * options.requests * len(rows) / whole
    median, late = statistics.median(times), times[int(0.99 * len(times))]
    print(f"| {len(rows)} | {clients} | {median:.1f} | {late:.1f} | {speed:,.0f} |", flush=True)


def _ask(what: tuple[int, bytes, int]) -> list[float]:
    """Ask one request after the other on one connection; return the seconds of each."""
    port, body, count = what
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        times.append(time.perf_counter() - begin)
    connection.close()
    return times


def _direct(km: Any, rows: NDArray[np.float32]) -> float:
    km.predict(rows, outputs=["cluster_idx"], as_iterable=False)
    begin = time.perf_counter()
    km.predict(rows, outputs=["cluster_idx"], as_iterable=False)
    return len(rows) / (time.perf_counter() - begin)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(tyro.cli(Options))
