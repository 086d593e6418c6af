"""Keys, tokens, passwords and signatures are told to nobody: no text, no log, no file."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import s3fs

from ray_kmeans import KMeansClustering, RunConfig, cli
from ray_kmeans.data.files import File
from ray_kmeans.data.formats.base import open_file
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import RayKMeansError
from ray_kmeans.export.directory import ExportDir
from ray_kmeans.io import retry
from ray_kmeans.io.remote import Remote
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.labelled_writer import lease_output
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.text.secrets import redacted
from ray_kmeans.workflows import label
from tests.support.faults import CUT, faulty
from tests.support.servers import free_port
from tests.support.stores import AZURE_KEY, SECRET, azure_options, gcs_options, http_files, s3_at

X = np.random.default_rng(3).normal(size=(500, 4)).astype(np.float32)
HUSH = "hush-Wq7/x+Z9=="
"""A secret with all that URLs and patterns could stumble over."""
KEY = "HUSHKEYID0123"
SIGNED = "X-Amz-Credential=HUSHKEYID0123&X-Amz-Signature=hush0123abcd"
SECRETS = [HUSH, "hush", KEY, "hush0123abcd", SECRET, AZURE_KEY, "hush%2D", "Wq7"]


@pytest.fixture(autouse=True)
def impatient_clients(monkeypatch):
    monkeypatch.setattr(retry, "PATIENT", retry.Policy(0.0, attempts=2, longest_pause_s=0.01))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)


@pytest.fixture
def said(caplog, capfd, tmp_path):
    """Gather all that is said; at the end none of it may hold a secret."""
    caplog.set_level(logging.DEBUG, logger="ray_kmeans")
    texts: list[str] = []
    yield texts
    for record in caplog.records:
        if record.name.startswith("ray_kmeans"):
            texts += [record.getMessage(), str(record.args), record.exc_text or ""]
    texts += capfd.readouterr()
    for path in tmp_path.rglob("*"):
        texts.append(str(path))
        if path.is_file():
            texts.append(path.read_bytes().decode("latin-1"))
    check(texts)


def check(texts):
    for secret in SECRETS:
        for text in texts:
            assert secret not in text, f"{secret!r} in {text[:2000]!r}"


def all_of(error):
    """Return all texts of an error, also as it crosses to another process."""
    again = pickle.loads(pickle.dumps(error))
    shown = "".join(traceback.format_exception(error))
    return [str(error), repr(error), shown, str(again), repr(again), str(vars(again))]


def npy(rows):
    content = io.BytesIO()
    np.save(content, rows)
    return content.getvalue()


def fails(said, call):
    with pytest.raises(RayKMeansError) as caught:
        call()
    assert str(caught.value)
    said += all_of(caught.value)


def estimator(model_dir, options, **more):
    config = RunConfig(num_workers=0, storage_options=options, log_step_count_steps=1)
    return KMeansClustering(2, model_dir, use_mini_batch=False, config=config, **more)


def everything(said, x, model_dir, options, out):
    """Fit, predict, label and export; look at all that can be shown of it."""
    km = estimator(model_dir, options).fit(x, steps=3)
    km.predict(x, as_iterable=False)
    km.evaluate(x)
    source = open_source(x, storage_options=options)
    state = ModelDir.at(model_dir, options, 5).fitted()
    output = LabelledOutput.at(out, options)
    label.write_labels(state, source, output, km.config, model_dir=model_dir)
    said += [repr(km), repr(km.config), repr(source), str(source), repr(source.describe())]
    said += [repr(output), repr(ModelDir.at(model_dir, options, 5)), repr(km.history())]
    fails(said, lambda: estimator(model_dir, options).fit(np.ones((9, 7)), steps=9))
    fails(said, lambda: km.predict(np.ones((9, 7)), as_iterable=False))
    fails(said, lambda: km.evaluate(x, checkpoint_path=f"{model_dir}/checkpoints/9.json"))
    again = partial(label.write_labels, state, source, output, km.config, model_dir="m")
    fails(said, lambda: again(second=True))
    return km


def options_of(client, endpoint):
    """Return a URL, and options full of secrets."""
    if client == "s3":
        client_of = {"retries": {"max_attempts": 0}, "connect_timeout": 1, "read_timeout": 1}
        given = s3_at(endpoint, KEY, HUSH, token=f"{HUSH}token", config_kwargs=client_of)
        return "s3://bucket/x.npy", given.options
    if client == "azure":
        return "abfs://bucket/x.npy", azure_options(endpoint)
    if client == "gcs":
        return "gs://bucket/x.npy", {**gcs_options(endpoint), "secure_serialize": HUSH}
    url = endpoint.replace("://", f"://user:{KEY}@") + f"/x.npy?{SIGNED}"
    return url, {"client_kwargs": {"headers": {"X-Token": f"Bearer {HUSH}"}}}


@pytest.fixture
def at_once(monkeypatch):
    import asyncio

    sleep = asyncio.sleep

    async def no_sleep(seconds, result=None):
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", no_sleep)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("outcome", [403, 404, 503, CUT, "refused"])
@pytest.mark.parametrize("client", ["s3", "azure", "gcs", "http"])
def test_no_call_that_fails_tells_a_secret(client, outcome, said, tmp_path):
    with faulty(lambda _: outcome) as endpoint:
        if outcome == "refused":
            endpoint = f"http://127.0.0.1:{free_port()}"
        url, options = options_of(client, endpoint)
        there = Remote(url, options)
        said += [repr(there), str(there), there.shown]
        calls = [
            lambda: open_source(url, storage_options=options),
            lambda: estimator(str(tmp_path / "m"), options).fit(url, steps=1),
        ]
        if client != "http":
            calls += [
                lambda: open_source(url.replace("x.npy", "*.npy"), storage_options=options),
                lambda: estimator(f"{url}/model", options).fit(X, steps=1),
                lambda: ExportDir.at(url, options).publish({"x": b""}),
                lease_output(LabelledOutput.at(url, options)).__enter__,
            ]
        for call in calls:
            fails(said, call)


@pytest.mark.parametrize("place", ["s3", "gcs", "azure"])
def test_nothing_on_a_store_or_in_a_text_holds_its_keys(place, request, said):
    store = request.getfixturevalue(place)
    root = f"{store.root}/{uuid.uuid4().hex}"
    options = {**store.options}
    fs = store.fs()
    fs.pipe_file(f"{root}/x.npy", npy(X))

    everything(said, f"{root}/x.npy", f"{root}/model", options, f"{root}/out")

    written = fs.find(root)
    assert len(written) > 8
    said += [fs.cat_file(path).decode("latin-1") for path in written] + written


def test_the_password_and_the_signature_of_a_url_are_told_to_nobody(said, tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "x.npy").write_bytes(npy(X))
    (served / "broken.npy").write_bytes(npy(X)[:-9])
    (served / "nan.npy").write_bytes(npy(X * np.nan))
    (served / "text.txt").write_text("text")

    with http_files(served) as place:
        root = place.root.replace("://", f"://user:{KEY}@")
        model_dir, out = str(tmp_path / "model"), str(tmp_path / "out")
        everything(said, f"{root}/x.npy?{SIGNED}", model_dir, {}, out)
        km = estimator(model_dir, {})
        for name in ("broken.npy", "nan.npy", "text.txt", "no.npy"):
            fails(said, lambda name=name: km.fit(f"{root}/{name}?{SIGNED}"))
        fails(said, lambda: km.fit([f"{root}/x.npy?{SIGNED}", f"{root}/broken.npy?{SIGNED}"]))
        fails(said, lambda: open_source([f"{root}/x.npy?{SIGNED}", str(served)]))
        fails(said, lambda: open_source(f"{root}/x.npy?{SIGNED}", ["a"]))
        fails(said, lambda: km.fit(iter([f"{root}/no.npy?{SIGNED}"])))


def test_a_place_whose_url_holds_a_password_is_shown_without_it(said):
    url = f"memory://user:{KEY}@host/{uuid.uuid4().hex}"

    km = estimator(f"{url}/model", {}).fit(X, steps=2)
    state = ModelDir.at(f"{url}/model", {}, 5).fitted()
    output = LabelledOutput.at(f"{url}/out", {})
    source = open_source(X)
    label.write_labels(state, source, output, km.config, model_dir=f"{url}/model")

    said += [repr(km), repr(RunConfig(model_dir=f"{url}/model")), repr(output)]
    manifest = output.fs.cat_file(f"{output.path}/_manifest.json")
    assert b"***@host" in manifest
    said.append(manifest.decode())
    both = RunConfig(num_workers=0, model_dir=f"{url}/other")
    fails(said, lambda: KMeansClustering(2, f"{url}/model", config=both).fit(X))
    fails(said, lambda: km.predict(np.ones((9, 7)), as_iterable=False))


def test_what_a_client_says_of_a_file_is_told_without_its_secrets(said):
    remote = Remote("memory://x", {"password": HUSH})
    file = File(f"http://host/x.npy?{SIGNED}", 1, "")

    def fail():
        with open_file(remote, file):
            raise OSError(f"{HUSH} does not open http://host/x.npy?{SIGNED}")

    fails(said, fail)


@pytest.mark.parametrize("options", ['{"key": "hush"', f'["{KEY}"]', f'"{KEY}"'])
def test_the_command_does_not_repeat_options_that_it_cannot_use(options, said, tmp_path):
    command = ["fit", "x.npy", str(tmp_path), "--num-clusters", "2", "--storage-options", options]

    with pytest.raises(SystemExit) as caught:
        cli.main(command)

    said += all_of(caught.value)


def test_the_command_says_what_it_does_without_passwords(said, tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "x.npy").write_bytes(npy(X))

    with http_files(served) as place:
        url = f"{place.root.replace('://', f'://user:{KEY}@')}/x.npy?{SIGNED}"
        model, out = str(tmp_path / "model"), str(tmp_path / "out")
        more = [
            "--num-workers",
            "0",
            "--storage-options",
            f'{{"client_kwargs": {{"x": "{HUSH}"}}}}',
        ]
        with pytest.raises(SystemExit) as caught:
            cli.main(["fit", url, model, "--num-clusters", "2", *more])
        said += all_of(caught.value)
        cli.main(["fit", url, model, "--num-clusters", "2", *more[:2], "--max-steps", "2"])
        cli.main(["predict", url, model, out, *more[:2]])


OPTIONS = {
    "key": KEY,
    "client_kwargs": {"aws_session_token": "hush-1", "endpoint_url": "http://shown:9000"},
    "headers": [("Authorization", "Bearer hush-2")],
    "password": b"hush-3",
    "connection_string": "DefaultEndpointsProtocol=http;AccountName=shown;AccountKey=hush-4==;",
    "account_name": "shown",
    "anon": False,
    "token": {"private_key": "-----BEGIN\nhush-5\n", "project_id": "shown"},
}


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        "hush-1",
        "Bearer hush-2",
        "token hush-2",
        "hush-3",
        "AccountKey=hush-4==",
        "-----BEGIN\nhush-5\n",
        "s3://user:hush@6@host/x",
        "https://host/x?sig=hush7%3D&se=2030",
        "('https://host/x?X-Amz-Signature=hush8')",
    ],
)
def test_a_secret_is_taken_out_of_a_text(text):
    shown = redacted(f"before {text} after", OPTIONS)

    assert "hush" not in shown
    assert KEY not in shown
    assert shown.startswith("before ")
    assert "***" in shown


def test_what_is_no_secret_stays():
    text = "http://shown:9000/bucket/x.npy of shown: False"

    assert redacted(text, OPTIONS) == text


def test_this_file_looks_where_it_says(said, tmp_path):
    for text in ([f"a {HUSH}"], ["", KEY]):
        with pytest.raises(AssertionError):
            check(text)
    assert Path(tmp_path).exists()
