"""What is served by HTTP is what predict says, whatever requests meet in a batch."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, serving
from ray_kmeans.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NotFittedError,
)
from ray_kmeans.serving import replica, requests
from ray_kmeans.serving.replica import Nearest, as_json
from ray_kmeans.store.model_dir import ModelDir
from tests.support.ray_runs import comes_true

X = np.random.default_rng(5).normal(size=(96, 4)).astype(np.float32)
K = 7
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fitted(place, steps=2, width=4, k=K):
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=1)
    x = X[:, :width]
    km = KMeansClustering(k, str(place), x[:k], use_mini_batch=False, config=config)
    return km.fit(x, steps=steps)


@pytest.fixture(scope="module")
def km(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("model"))


def truth_of(km, rows):
    said = km.predict(rows, as_iterable=False)
    nearest = said["all_scores"][np.arange(len(rows)), said["cluster_idx"]]
    return {"cluster_idx": said["cluster_idx"].tolist(), "distance": nearest.tolist()}


def names_of(km):
    return [path.rsplit("/", 1)[-1] for path in km.checkpoints()]


def body_of(rows):
    return json.dumps({"rows": rows.tolist()}).encode()


# --- what a request holds ---------------------------------------------------------------------

WRONG = {
    "not JSON": (b"rows", "the body is not JSON: .* Send"),
    "not text": (b"\xff\xfe{", "the body is not JSON"),
    "a list": (b"[[1, 2]]", "the body holds list, not 'rows' alone"),
    "other names": (b'{"row": [], "rows": [[1, 2]]}', r"holds \['row', 'rows'\], not 'rows' alone"),
    "no list": (b'{"rows": 3}', "'rows' is 3, not a list of rows"),
    "no row": (b'{"rows": []}', r"'rows' is \[\], not a list of rows"),
    "one row alone": (b'{"rows": [1, 2]}', "row 0 is 1, not a list of numbers"),
    "too narrow": (b'{"rows": [[1, 2], [1]]}', "row 1 has 1 numbers and the model has 2 features"),
    "too wide": (b'{"rows": [[1, 2, 3]]}', "row 0 has 3 numbers and the model has 2 features"),
    "text": (b'{"rows": [[1, 2], [3, "4"]]}', "row 1 holds what is not a number"),
    "a switch": (b'{"rows": [[1, 2], [true, 0.5]]}', "row 1 holds what is not a number"),
    "switches in UTF-16": ('{"rows": [[false, 1]]}'.encode("utf-16"), "row 0 holds what is not"),
    "null": (b'{"rows": [[1, null]]}', "row 0 holds what is not a number"),
    "lists": (b'{"rows": [[1, [2]]]}', "row 0 holds what is not a number"),
    "NaN": (b'{"rows": [[1, 2], [NaN, 2]]}', "row 1 holds NaN or infinity, and 1 rows do"),
    "infinity": (b'{"rows": [[1, -Infinity]]}', "row 0 holds NaN or infinity"),
    "beyond float32": (b'{"rows": [[1e39, 2]]}', r"the request holds .*1e\+39.*float32 cannot"),
    "a whole number beyond float32": (
        b'{"rows": [[1' + b"0" * 50 + b", 2]]}",
        r"the request holds .*1e\+50.*float32 cannot",
    ),
    "beyond float64": (
        b'{"rows": [[1e400, 2]]}',
        "the request holds 1e400, which is beyond float32",
    ),
    "a whole number beyond float64": (
        b'{"rows": [[-1' + b"0" * 400 + b", 2]]}",
        r"the request holds -10{18}\.\.\., which is beyond float32",
    ),
    "a whole number of too many digits for Python": (
        b'{"rows": [[1' + b"0" * 10_000 + b", 2]]}",
        r"the request holds 10{19}\.\.\., which is beyond float32",
    ),
    "nested deeply": (b'{"rows": ' + b"[" * 100_000, "the body is nested too deeply"),
    "rows nested deeply": (
        b'{"rows": ' + b"[" * 800 + b"]" * 800 + b"}",
        "row 0 has 1 numbers and the model has 2 features",
    ),
    "many names": (
        json.dumps({f"name {n}": 1 for n in range(30_000)}).encode(),
        r"the body holds \['name 0', 'name 1', .*\.\.\.\], not 'rows' alone",
    ),
    "a long name": (b'{"' + b"x" * 300_000 + b'": 1}', r"holds \['x+\.\.\.x+'\], not 'rows' alone"),
    "names that are no text": (b'{"\\ud800\\n\\u202e": 1}', r"holds \['\\ud800\\n\\u202e'\]"),
    "long text": (b'{"rows": ["' + b"x" * 300_000 + b'"]}', r"row 0 is 'x+\.\.\.x+', not a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_body_is_said(case):
    body, message = WRONG[case]

    with pytest.raises(DataError, match=message) as caught:
        requests.as_rows(requests.rows_in(body), 2)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < requests.LONGEST


def test_whole_numbers_are_read_as_exactly_as_they_are_given():
    body = b'{"rows": [[9223372036854775807, -9223372036854775808], [16777217, 33554435]]}'

    rows = requests.as_rows(requests.rows_in(body), 2)

    assert rows.tolist() == np.float32([[2**63 - 1, -(2**63)], [16777217, 33554435]]).tolist()


async def in_parts(parts, seen):
    for part in parts:
        seen.append(part)
        yield part


@pytest.mark.parametrize(
    ("headers", "status", "why", "read"),
    [
        ({"content-length": "11"}, 413, "the request has 11 bytes", 0),
        ({"content-length": "9" * 5_000}, 413, "the request has too many bytes", 0),
        ({}, 413, "the request has more than 10 bytes", 3),
        ({"content-length": "nonsense"}, 413, "the request has more than 10 bytes", 3),
        ({"content-encoding": "gzip"}, 415, "content-encoding 'gzip'", 0),
    ],
)
def test_a_body_is_not_read_further_than_it_may_be_long(headers, status, why, read):
    seen = []

    with pytest.raises(requests.Refusal) as caught:
        asyncio.run(requests.read_body(in_parts([b"1234"] * 9, seen), headers, 10))

    assert (caught.value.status, len(seen)) == (status, read)
    assert why in caught.value.why


def test_a_body_that_comes_in_parts_is_one():
    parts = [b'{"rows"', b": ", b"[[1]]}"]

    body = asyncio.run(requests.read_body(in_parts(parts, []), {"content-length": "15"}, 15))

    assert body == b'{"rows": [[1]]}'


def test_numbers_of_a_body_are_float32_however_they_are_written():
    rows = requests.as_rows(requests.rows_in(b'{"rows": [[1, 2.5], [1e-3, -4e0]]}'), 2)

    assert rows.dtype == np.float32
    assert rows.tolist() == np.float32([[1, 2.5], [0.001, -4]]).tolist()


def test_a_distance_beyond_float32_is_null():
    assert as_json(np.float32([1.5, np.inf])) == [1.5, None]


# --- a replica, without Serve -----------------------------------------------------------------


def without_model(km):
    return Nearest(ModelDir.at(km.model_dir, {}, 1), max_rows=8, max_batch_size=4, wait_s=0)


def replica_of(km, name=None):
    made = without_model(km)
    made.reconfigure({"checkpoint_path": name or names_of(km)[-1]})
    return made


def test_requests_are_cut_apart_as_they_came(km):
    parts = [X[:3], X[3:4], X[4:20]]

    answers = asyncio.run(replica_of(km).label_together(parts))

    for rows, answer in zip(parts, answers, strict=True):
        assert {name: v.tolist() for name, v in answer.items()} == truth_of(km, rows)


def test_a_replica_takes_the_checkpoint_that_it_is_told(km):
    first, last = names_of(km)[0], names_of(km)[-1]
    replica = replica_of(km, first)
    before = replica.describe()

    replica.reconfigure({"checkpoint_path": last})

    assert first != last
    assert replica.describe()["iteration"] == before["iteration"] + 2


def test_a_checkpoint_that_cannot_be_served_leaves_the_model_as_it_is(km, tmp_path, caplog):
    narrow = fitted(tmp_path, width=3).checkpoints()[-1]
    replica = replica_of(km)
    before = replica.describe()

    for user_config, message in [
        ({}, r"user_config=\{\} must be .*checkpoint_path"),
        ({"checkpoint_path": 3}, "checkpoint_path=3 must be a path or URL"),
        ({"checkpoint_path": "00000009.json"}, "does not exist"),
        ({"checkpoint_path": narrow}, "has 3 features and the model that is served 4"),
    ]:
        replica.reconfigure(user_config)
        about = replica.describe()
        assert re.search(message, about.pop("refused"))
        assert re.search(message, caplog.records[-1].message)
        assert about == before
    replica.reconfigure({"checkpoint_path": names_of(km)[-1]})
    assert replica.describe() == before


def test_a_replica_without_a_model_does_not_start(km):
    with pytest.raises(NotFittedError, match="does not exist"):
        without_model(km).reconfigure({"checkpoint_path": "00000009.json"})
    with pytest.raises(RuntimeError, match="this replica has no model"):
        without_model(km).describe()


def test_a_replica_that_labels_wrongly_is_not_healthy(km):
    replica = replica_of(km)
    replica.check_health()

    replica._model = lambda rows: {"cluster_idx": np.array([3])}

    with pytest.raises(RuntimeError, match="labels center 0 as 3: this replica must restart"):
        replica.check_health()


# --- an application ---------------------------------------------------------------------------


def test_what_cannot_be_served_is_said_before_a_replica_starts(km, tmp_path):
    with pytest.raises(NotFittedError, match="there is no model in"):
        serving.nearest(str(tmp_path))
    with pytest.raises(ConfigError, match="in the memory of this process, where no replica"):
        serving.nearest("memory://model")
    for name in ("max_batch_size", "max_rows"):
        with pytest.raises(ConfigError, match=f"{name}=0 must be a whole number"):
            serving.nearest(km.model_dir, **{name: 0})
    with pytest.raises(ConfigError, match="batch_wait_timeout_s=-1 must be seconds"):
        serving.nearest(km.model_dir, batch_wait_timeout_s=-1)


def test_a_damaged_checkpoint_is_said_before_a_replica_starts(tmp_path):
    km = fitted(tmp_path, steps=1)
    for path in tmp_path.glob("checkpoints/data/*/centers.npy"):
        path.write_bytes(b"x")

    with pytest.raises(CheckpointError, match=r"centers\.npy"):
        serving.nearest(km.model_dir)


def test_all_replicas_are_told_one_checkpoint_and_deployment_options_pass(km):
    app = serving.nearest(km.model_dir, max_batch_size=5, num_replicas=3)

    deployment = app._bound_deployment
    assert deployment.user_config == {"checkpoint_path": names_of(km)[-1]}
    assert (deployment.num_replicas, deployment.max_ongoing_requests) == (3, 10)


def test_a_builder_takes_text_as_from_a_command_line(km):
    args = {"model_dir": km.model_dir, "max_batch_size": "5", "num_replicas": "2"}

    deployment = serving.builder({**args, "storage_options": "{}"})._bound_deployment

    assert (deployment.num_replicas, deployment.max_ongoing_requests) == (2, 10)
    with pytest.raises(ConfigError, match="max_rows='many' cannot be read"):
        serving.builder({**args, "max_rows": "many"})
    with pytest.raises(ConfigError, match=r"\['rows'\] are unknown. Give model_dir="):
        serving.builder({**args, "rows": "1"})
    with pytest.raises(ConfigError, match="model_dir is missing"):
        serving.builder({})


def test_without_ray_serve_the_line_that_installs_it_is_said(km, monkeypatch):
    monkeypatch.delattr(serving, "replica")
    monkeypatch.delitem(sys.modules, "ray_kmeans.serving.replica")
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    monkeypatch.delattr("ray.serve")

    with pytest.raises(ConfigError, match=r"pip install '\.\[serve\]'"):
        serving.nearest(km.model_dir)


# --- on Ray Serve -----------------------------------------------------------------------------


class Counted(Nearest):
    """Writes down how many rows the kernel is asked for at once."""

    def reconfigure(self, user_config):
        super().reconfigure(user_config)
        model = self._model

        def noted(rows):
            with open(os.environ["CALLS"], "a") as file:
                file.write(f"{len(rows)}\n")
            return model(rows)

        self._model = noted


@pytest.fixture(scope="module")
def url(ray_cluster):
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    with socket.socket() as gone:
        assert gone.connect_ex(("127.0.0.1", port)) != 0


def ask(url, body=None, method=None):
    request = urllib.request.Request(url, body, method=method)
    try:
        with OPENER.open(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def served(url, km):
    from ray import serve

    app = serving.nearest(km.model_dir, max_rows=64, ray_actor_options={"num_cpus": 0.5})
    serve.run(app, name="model", route_prefix="/model")
    return f"{url}/model"


@pytest.mark.ray
def test_answers_by_http_are_those_of_predict(served, km):
    for rows in (X[:1], X[:64], X[60:] * np.float32(1e-30)):
        assert ask(served, body_of(rows)) == (200, truth_of(km, rows))
    assert ask(served, body_of(np.float32([[1e38, 0, 0, 0]])))[1]["distance"] == [None]


@pytest.mark.ray
def test_a_model_says_what_it_is(served, km):
    status, about = ask(served)

    assert status == 200
    assert (about["num_clusters"], about["num_features"]) == (K, 4)
    assert about["iteration"] == len(km.history())


@pytest.mark.ray
def test_what_is_wrong_with_a_request_is_its_status(served, km):
    assert ask(served, body_of(X[:65]))[0] == 413
    assert "64 rows may be in one" in ask(served, body_of(X[:65]))[1]["error"]
    status, answer = ask(served, body_of(X[:64]) + b" " * 20_000)
    assert status == 413
    assert "bytes: 64 rows may be in one" in answer["error"]
    assert ask(served, b"x", method="PUT") == (
        405,
        {"error": "PUT is not known. Send POST or GET."},
    )
    for body in (b"no", body_of(X[:2, :3]), b'{"rows": [[NaN, 1, 1, 1]]}', b'{"rows": [[1]]}'):
        status, answer = ask(served, body)
        assert (status, list(answer)) == (400, ["error"])
    assert ask(served, body_of(X[:2])) == (200, truth_of(km, X[:2]))


def answer_to(url, sent):
    """Send bytes as they are, and return the status and what is said; the connection is closed."""
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        with suppress(OSError):  # who is answered early may not be read to the end
            for part in sent:
                connection.sendall(part)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


def head(url, *lines):
    path = url.removeprefix("http://").partition("/")[2]
    return "\r\n".join([f"POST /{path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@pytest.mark.ray
def test_what_a_client_sends_is_refused_in_one_line_and_others_are_answered(served, km):
    chunked = (b"1000\r\n" + b" " * 0x1000 + b"\r\n" for _ in range(1_000))
    deep = b'{"rows": ' + b"[" * 8_000
    cases = [
        ([head(served, f"Content-Length: {10**12}"), b"[" * 1_000], 413),
        ([head(served, "Transfer-Encoding: chunked"), *chunked], 413),
        ([head(served, f"Content-Length: {len(deep)}"), deep], 400),
        ([head(served, "Content-Length: 2", "Content-Encoding: gzip"), b"\x1f\x8b"], 415),
        ([head(served, "Content-Length: 2", "Content-Type: image/png"), b"\xff\xfe"], 400),
        ([head(served, "Content-Length: 0")], 400),
    ]

    for sent, status in cases:
        found, answer = answer_to(served, sent)
        assert (found, list(answer)) == (status, ["error"])
        assert answer["error"].isprintable()
        assert len(answer["error"]) < 600
    assert ask(served, body_of(X[:2])) == (200, truth_of(km, X[:2]))


class Impatient(Nearest):
    """Waits two seconds for a body."""

    def reconfigure(self, user_config):
        replica.BODY_S = 2.0
        super().reconfigure(user_config)


@pytest.mark.ray
def test_clients_that_stop_in_the_middle_of_a_body_hold_up_nobody(url, km):
    from ray import serve

    app = serve.deployment(Impatient).options(
        user_config={"checkpoint_path": names_of(km)[-1]},
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": 0.5},
    )
    serve.run(
        app.bind(ModelDir.at(km.model_dir, {}, 1), 64, 8, 0.0), name="i", route_prefix="/slow"
    )
    place = f"{url}/slow"
    hanging = [head(place, "Content-Length: 100"), b'{"rows": [[']

    with ThreadPoolExecutor(24) as pool:
        waiting = [pool.submit(answer_to, place, hanging) for _ in range(16)]
        time.sleep(0.5)
        answers = list(pool.map(lambda n: ask(place, body_of(X[n : n + 1])), range(50)))
        stopped = [each.result() for each in waiting]

    assert answers == [(200, truth_of(km, X[n : n + 1])) for n in range(50)]
    assert {status for status, _ in stopped} == {408}
    assert stopped[0][1] == {"error": "the body has not come within 2 s. Send it again."}
    serve.delete("i")


@pytest.mark.ray
def test_another_deployment_asks_with_arrays(served, km):
    from ray import serve

    handle = serve.get_app_handle("model")

    answer = handle.label.remote(X.astype(np.float64)).result()

    assert {name: values.tolist() for name, values in answer.items()} == truth_of(km, X)
    with pytest.raises(DataError, match=r"shape \(96, 3\); it must be \(rows, 4\)"):
        handle.label.remote(X[:, :3]).result()


@pytest.mark.ray
def test_requests_of_a_moment_are_answered_by_one_pass(url, km, tmp_path):
    from ray import serve

    calls = tmp_path / "calls"
    options = {"num_cpus": 0.5, "runtime_env": {"env_vars": {"CALLS": str(calls)}}}
    app = serve.deployment(Counted).options(
        user_config={"checkpoint_path": names_of(km)[-1]},
        max_ongoing_requests=32,
        ray_actor_options=options,
    )
    serve.run(
        app.bind(ModelDir.at(km.model_dir, {}, 1), 64, 8, 30.0), name="c", route_prefix="/counted"
    )
    pairs = [X[n : n + 2] for n in range(16)]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda rows: ask(f"{url}/counted", body_of(rows)), pairs))

    assert answers == [(200, truth_of(km, rows)) for rows in pairs]
    by_requests = [int(n) for n in calls.read_text().split() if int(n) > 1]  # 1: health checks
    assert by_requests == [16, 16]  # 16 requests of two rows, eight at a time
    serve.delete("c")


def deployed(km, checkpoint):
    """Deploy as `serve deploy` does with a file; return the process of the replica."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    client = _get_global_client()
    told = {"name": "nearest", "user_config": {"checkpoint_path": checkpoint}}
    app = {
        "name": "file",
        "route_prefix": "/file",
        "import_path": "ray_kmeans.serving:builder",
        "args": {"model_dir": km.model_dir, "max_batch_size": 4},
        "deployments": [{**told, "ray_actor_options": {"num_cpus": 0.5}}],
    }
    client.deploy_apps(ServeDeploySchema(applications=[app]), _blocking=True)
    [replica] = client.get_serve_details()["applications"]["file"]["deployments"]["nearest"][
        "replicas"
    ]
    return replica["pid"]


@pytest.mark.ray
def test_another_checkpoint_is_served_without_a_restart_and_then_all_ends(url, tmp_path):
    from ray import serve

    km = fitted(tmp_path, steps=1)
    first = deployed(km, names_of(km)[-1])
    assert ask(f"{url}/file")[1]["iteration"] == 1
    km.fit(X, steps=2)
    assert ask(f"{url}/file")[1]["iteration"] == 1

    again = deployed(km, names_of(km)[-1])

    assert again == first
    assert comes_true(lambda: ask(f"{url}/file")[1]["iteration"] == 3)
    assert deployed(km, "00000099-iteration-9.json") == first
    assert comes_true(lambda: "does not exist" in ask(f"{url}/file")[1].get("refused", ""))
    assert ask(f"{url}/file", body_of(X[:9])) == (200, truth_of(km, X[:9]))
    serve.delete("file")
    assert "file" not in serve.status().applications
    assert comes_true(lambda: not os.path.exists(f"/proc/{first}"))
