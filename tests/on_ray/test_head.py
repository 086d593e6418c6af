"""An address at which no Ray head answers is one sentence within 20 s, and none of Ray's lines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import ConfigError
from ray_kmeans.on_ray import head_check, ray_cluster
from tests.support import machines
from tests.support.servers import free_port
from tests.support.stores import serving

ROOT = Path(__file__).parents[2]
LONGEST_S = 20
QUICK_S = 0.5
"""Patience of the tests, in place of each of the check's."""
QUICK = f"from ray_kmeans.on_ray import head_check as h; h.CONNECT_S = h.ANSWER_S = {QUICK_S}\n"
X = np.arange(40, dtype=np.float32).reshape(20, 2)


@contextmanager
def closed():
    yield f"127.0.0.1:{free_port()}"


@contextmanager
def silent():
    """A port on which something listens and says nothing, as a head that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def hanging_up():
    """A port whose connections are closed at once."""
    with serving(HangsUp) as endpoint:
        yield endpoint.removeprefix("http://")


@contextmanager
def web():
    with serving(BaseHTTPRequestHandler) as endpoint:
        yield endpoint.removeprefix("http://")


class HangsUp(BaseHTTPRequestHandler):
    def handle(self):
        self.connection.close()


@contextmanager
def unknown():
    yield "no-such-host.invalid:6379"


ADDRESSES = {
    closed: "nothing listens on this port",
    silent: "has not answered within",
    hanging_up: "not the head of a Ray cluster",
    web: "not the head of a Ray cluster",
    unknown: "'no-such-host.invalid' is not known here",
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(head_check, "CONNECT_S", QUICK_S)
    monkeypatch.setattr(head_check, "ANSWER_S", QUICK_S)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("given", ["ray_address", "RAY_ADDRESS"])
@pytest.mark.parametrize("place", ADDRESSES, ids=lambda place: place.__name__)
def test_where_no_head_answers_the_estimator_says_so(place, given, tmp_path, monkeypatch):
    with place() as address:
        if given == "RAY_ADDRESS":
            monkeypatch.setenv("RAY_ADDRESS", address)
        config = RunConfig(ray_address=address if given == "ray_address" else None)
        km = KMeansClustering(2, str(tmp_path / "m"), config=config)

        with pytest.raises(ConfigError, match=f"{given}='?{address}") as caught:
            km.fit(X)

    assert ADDRESSES[place] in str(caught.value)


def test_the_longest_waits_of_a_check_are_together_less_than_20_s():
    assert head_check.RESOLVE_S + head_check.CONNECT_S + head_check.ANSWER_S < LONGEST_S


@pytest.mark.parametrize(
    ("command", "place"),
    [("fit", closed), ("fit", silent), ("predict", closed), ("make-dataset", silent)],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_command_says_so_in_one_line_within_seconds(command, place, tmp_path):
    np.save(tmp_path / "x.npy", X)
    here = RunConfig(num_workers=0, progress=False)
    km = KMeansClustering(2, str(tmp_path / "m"), X[:2], use_mini_batch=False, config=here)
    if command == "predict":
        km.fit(X, steps=1)
    words = {
        "fit": ["x.npy", "new", "--num-clusters=2"],
        "predict": ["x.npy", "m", "labels"],
        "make-dataset": ["made", "--num-rows=9", "--num-features=2", "--num-clusters=1"],
    }[command]
    main = f"{QUICK}from ray_kmeans.cli import main; main()"
    with place() as address:
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", main, command, *words],
            env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        took = time.monotonic() - begin

    said = [line for line in done.stderr.splitlines() if not line.startswith(command)]
    assert done.returncode == 1
    assert [line[:7] for line in said] == ["error: "], done.stderr
    assert f"RAY_ADDRESS={address}" in said[0]
    assert done.stdout == ""
    assert took < LONGEST_S
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://head:10001", "not by the URL of a Ray client"),
        ("http://head:8265", "ray job submit"),
        ("head", "is not HOST:PORT"),
        ("head:", "is not HOST:PORT"),
        ("head:port", "is not HOST:PORT"),
        ("head:70000", "is not HOST:PORT"),
    ],
)
def test_what_is_no_address_of_a_head_is_refused(address, says):
    with pytest.raises(ConfigError, match=says):
        ray_cluster.connect(address, None, None)


def test_auto_where_no_ray_runs_is_refused(tmp_path, monkeypatch):
    from ray._private import services

    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda place: None)

    with pytest.raises(ConfigError, match="ray_address='auto': no Ray runs on this machine"):
        ray_cluster.connect("auto", None, None)


@pytest.mark.usefixtures("quick")
def test_auto_that_finds_the_file_of_a_dead_head_is_refused(monkeypatch):
    from ray._private import services

    with closed() as address:
        monkeypatch.setattr(services, "find_gcs_addresses", set)
        monkeypatch.setattr(services, "find_bootstrap_address", lambda place: address)

        with pytest.raises(ConfigError, match="'auto': no Ray head answers there"):
            ray_cluster.connect("auto", None, None)


@contextmanager
def dripping(*pieces):
    """A port whose server says these pieces, one after the other, in a connection of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            link, _ = server.accept()
            with link:
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    link.sendall(piece)
                    time.sleep(0.01)

        Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


SETTINGS = head_check._frame(head_check.SETTINGS, 0, 0, bytes(6))
ANSWERED = (
    head_check._frame(head_check.HEADERS, 4, 1, b"\x88x"),
    head_check._frame(head_check.DATA, 0, 1, b"\0\0\0\0\5alive"),
)


@pytest.mark.parametrize("cut", [1, 3, 4, 9, 12, 100])
def test_a_head_whose_answer_comes_in_pieces_is_one(cut):
    said = SETTINGS + head_check._frame(8, 0, 0, bytes(4)) + b"".join(ANSWERED)
    pieces = [said[i : i + cut] for i in range(0, len(said), cut)]

    with dripping(*pieces) as address:
        head_check.check(address, "x")
    with dripping(SETTINGS, *ANSWERED) as address:
        head_check.check(address, "x")


NO_PAGE = b"\x8d"
"""In HPACK: the status 404."""


@pytest.mark.parametrize(
    "answer",
    [
        [head_check._frame(head_check.HEADERS, 5, 1, NO_PAGE)],
        [head_check._frame(head_check.HEADERS, 5, 1, b"\x20" + NO_PAGE)],
        [
            head_check._frame(head_check.HEADERS, 4, 1, NO_PAGE),
            head_check._frame(head_check.DATA, 1, 1, b"\0\0\0\0\0"),
        ],
        [
            head_check._frame(head_check.HEADERS, 4, 1, b"\x88"),
            head_check._frame(head_check.DATA, 1, 1, b"<html>"),
        ],
    ],
    ids=["without a page", "and a size of its table", "with a page", "a page of 200"],
)
def test_another_server_that_speaks_http_2_is_no_head(answer):
    with (
        dripping(SETTINGS, *answer) as address,
        pytest.raises(ConfigError, match="not the head of a Ray cluster"),
    ):
        head_check.check(address, "x")


@pytest.mark.parametrize("size", [b"", b"\x20", b"\x3f\xe1\x1f"])
def test_a_head_that_wants_a_token_first_is_one(size):
    with dripping(SETTINGS, head_check._frame(head_check.HEADERS, 5, 1, size + b"\x88")) as address:
        head_check.check(address, "x")


def test_a_name_server_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(head_check, "RESOLVE_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *about: time.sleep(1) or [])

    with pytest.raises(ConfigError, match=r"no answer within 0\.2 s"):
        head_check.check("somewhere:6379", "x")


def test_a_black_hole_is_said_within_seconds(tmp_path):
    missing = machines.why_not()
    if missing:
        pytest.skip(missing)
    code = (
        f"{QUICK}import time; from ray_kmeans.on_ray import head_check; begin = time.monotonic()\n"
        "try: head_check.check('10.255.255.1:6379', 'x')\n"
        "except Exception as error: print(error)\n"
        "print(time.monotonic() - begin)"
    )
    with machines.machines(tmp_path, 1) as (machine,):
        run = f'export PYTHONPATH={ROOT}; {sys.executable} -c "{code}"'
        done = machines.run(tmp_path, machine, run, 60)

    said, took = done.stdout.strip().splitlines()[-2:]
    assert "no Ray head answers there" in said
    assert float(took) < LONGEST_S


@pytest.mark.ray
def test_a_head_that_lives_answers_and_another_server_of_ray_does_not(ray_cluster):
    import ray

    head_check.check(ray.get_runtime_context().gcs_address, "x")
    node = ray.nodes()[0]

    with pytest.raises(ConfigError, match="not the head of a Ray cluster"):
        head_check.check(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}", "x")
