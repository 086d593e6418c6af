"""Which errors of the clients of stores pass: those of the real clients, at a server that fails."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from types import SimpleNamespace

import aiohttp
import azure.identity
import botocore.exceptions
import google.auth.exceptions
import pytest

from ray_kmeans.errors import ConfigError, RequestError
from ray_kmeans.io import retry
from ray_kmeans.io.remote import Remote
from ray_kmeans.io.retry import RetryingFileSystem, is_transient
from tests.support.faults import CUT, CUT_BODY, STALL, faulty
from tests.support.servers import free_port
from tests.support.stores import AZURE_KEY, azure_options, gcs_options, s3_at

PASSING = [408, 429, 500, 503, CUT, CUT_BODY, STALL, "refused"]
FOR_GOOD = [400, 401, 403, 404, 405, 416]
WAIT_S = 0.15
"""How long the clients wait for an answer."""
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
        at_once = {"retries": {"max_attempts": 0}, "connect_timeout": 1, "read_timeout": WAIT_S}
        return "s3://bucket/x.npy", s3_at(endpoint, config_kwargs=at_once).options
    if client == "gcsfs":
        return "gs://bucket/x.npy", {**gcs_options(endpoint), "requests_timeout": WAIT_S}
    if client == "adlfs":
        short = {"connection_timeout": 1, "read_timeout": WAIT_S}
        return "abfs://bucket/x.npy", {**azure_options(endpoint, AZURE_KEY), **short}
    return f"{endpoint}/x.npy", {"client_kwargs": {"timeout": aiohttp.ClientTimeout(WAIT_S)}}


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


CLIENTS = ["s3fs", "gcsfs", "adlfs", "aiohttp"]


@pytest.mark.long(kind="passing error")
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("outcome", [*PASSING, *FOR_GOOD])
@pytest.mark.parametrize("client", CLIENTS)
def test_an_error_of_the_moment_passes_and_no_other(client, outcome):
    error = error_of(client, "read", outcome)

    assert is_transient(error) == (outcome in PASSING), f"{type(error)}: {error!r}"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("outcome", [503, CUT, 403])
@pytest.mark.parametrize(
    ("client", "request_"),
    [("aiohttp", "info"), *itertools.product(CLIENTS[:-1], ["info", "ls", "find", "write"])],
)
def test_so_it_is_for_every_request(client, request_, outcome):
    error = error_of(client, request_, outcome)

    assert is_transient(error) == (outcome in PASSING), f"{type(error)}: {error!r}"


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.ParamValidationError(report="no such parameter"),
        google.auth.exceptions.DefaultCredentialsError("none found"),
        azure.identity.CredentialUnavailableError("none found"),
        aiohttp.InvalidURL("http://[x"),
        ConfigError("not retried"),
        TypeError("an argument"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_wrong_before_a_request_is_made_does_not_pass(error):
    assert not is_transient(error)


class Clock:
    """Time that passes in pauses alone."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.pauses = []
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


def asked(fails):
    """Return a patient store whose one request raises what `fails` returns, if that is an error."""

    def answer(path):
        if error := fails():
            raise error
        return b"data"

    return RetryingFileSystem(
        SimpleNamespace(protocol="any", cat_file=answer), {"password": "hush"}
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_store_that_is_down_for_a_minute_is_waited_for(monkeypatch, caplog, seed):
    random.seed(seed)
    clock = Clock(monkeypatch)

    store = asked(lambda: ConnectionResetError("hush") if clock.now < 60 else None)

    assert store.cat_file("x") == b"data"
    assert max(clock.pauses) <= retry.PATIENT.longest_pause_s
    assert len(clock.pauses) < 50
    assert 1 <= len(caplog.records) < 30


def test_a_store_that_stays_down_is_an_error_within_two_minutes(monkeypatch):
    clock = Clock(monkeypatch)

    with pytest.raises(RequestError, match=r"cat_file x failed after \d+ attempts: .*by peer"):
        asked(lambda: ConnectionResetError("reset by peer")).cat_file("x")

    assert retry.PATIENT.patience_s <= clock.now <= 120


def test_the_log_says_that_a_request_waits_but_not_in_the_first_seconds(monkeypatch, caplog):
    clock = Clock(monkeypatch)
    said = []

    def down():
        said.append((clock.now, len(caplog.records)))
        return ConnectionResetError("hush") if clock.now < 30 else None

    asked(down).cat_file("x?key=abc")

    assert all(lines == 0 for at, lines in said if at < retry.PATIENT.quiet_s)
    assert said[-1][1] > 0
    message = caplog.records[-1].getMessage()
    assert re.match(r"cat_file x\?\*\*\* has failed for \d+ s; .* up to 90 s: Connec", message)
    assert "hush" not in caplog.text


def test_a_client_that_was_patient_by_itself_is_asked_again_too(monkeypatch):
    clock = Clock(monkeypatch)
    failed = []

    def slow():
        clock.now += 300
        failed.append(clock.now)
        is_last = len(failed) == retry.PATIENT.attempts
        return None if is_last else ConnectionResetError("reset by peer")

    assert asked(slow).cat_file("x") == b"data"
