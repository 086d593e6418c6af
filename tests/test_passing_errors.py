"""Which errors of the clients of stores pass: those of the real clients, at a server that fails."""

from __future__ import annotations

import asyncio

import pytest

from ray_kmeans.remote import Remote, is_passing
from tests.faults import CUT, STALL, faulty
from tests.servers import free_port
from tests.stores import AZURE_KEY, azure_options, gcs_options, s3_at

PASSING = [408, 429, 500, 502, 503, 504, CUT, STALL, "refused"]
FOR_GOOD = [400, 401, 403, 404, 405, 416]
REQUESTS = {
    "read": lambda fs, path: fs.cat_file(path, 0, 10),
    "info": lambda fs, path: fs.info(path),
    "ls": lambda fs, path: fs.ls(path),
    "find": lambda fs, path: fs.find(path),
    "write": lambda fs, path: fs.pipe_file(path, b"data"),
}


def place_at(client, endpoint):
    """Return a URL and options of a client that waits for a short time."""
    if client == "s3fs":
        at_once = {"retries": {"max_attempts": 0}, "connect_timeout": 0.3, "read_timeout": 0.3}
        return "s3://bucket/x.npy", s3_at(endpoint, config_kwargs=at_once).options
    if client == "gcsfs":
        return "gs://bucket/x.npy", {**gcs_options(endpoint), "timeout": 0.3}
    if client == "adlfs":
        short = {"connection_timeout": 0.3, "read_timeout": 0.3}
        return "abfs://bucket/x.npy", {**azure_options(endpoint, AZURE_KEY), **short}
    import aiohttp

    return f"{endpoint}/x.npy", {"client_kwargs": {"timeout": aiohttp.ClientTimeout(0.3)}}


@pytest.fixture
def at_once(monkeypatch):
    """Let the clients' own pauses between attempts be none."""
    sleep = asyncio.sleep

    async def no_sleep(seconds, result=None):
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", no_sleep)


def error_of(client, request, outcome):
    """Return what a client raises where the server answers so."""
    with faulty(lambda _: outcome) as endpoint:
        if outcome == "refused":
            endpoint = f"http://127.0.0.1:{free_port()}"
        url, options = place_at(client, endpoint)
        remote = Remote(url, {**options, "skip_instance_cache": True})
        with pytest.raises(Exception) as caught:  # noqa: PT011
            print(REQUESTS[request](remote.fs._fs, remote.path))
    return caught.value


CASES = [
    (client, request)
    for client in ("s3fs", "gcsfs", "adlfs", "aiohttp")
    for request in REQUESTS
    if client != "aiohttp" or request in ("read", "info")
]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("outcome", [*PASSING, *FOR_GOOD])
@pytest.mark.parametrize(("client", "request_"), CASES)
def test_an_error_of_the_moment_passes_and_no_other(client, request_, outcome):
    error = error_of(client, request_, outcome)

    assert is_passing(error) == (outcome in PASSING), f"{type(error)}: {error!r}"
