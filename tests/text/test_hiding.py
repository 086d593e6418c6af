"""Of URLs and options only what is known to be no secret is shown, wherever it stands."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import traceback
import uuid

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings

from ray_kmeans import KMeansClustering, RunConfig, open_source
from ray_kmeans.data.files import File
from ray_kmeans.errors import RayKMeansError
from ray_kmeans.io.remote import Remote
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.text.secrets import HIDDEN, redacted, shown
from ray_kmeans.workflows import label

MARK = "hUsH"
SIGNS = "/#@:?&=%'\"\\,;()[]{}<>. -_+~ab12é\t"
WORD = st.text("abcXYZ09", min_size=1, max_size=6)
SECRET = st.builds(
    lambda before, after: f"{before}{MARK}{after}",
    st.text(SIGNS, max_size=6),
    st.text(SIGNS, max_size=6),
)
SCHEMES = ["s3", "gs", "ftp", "sftp", "https", "http", "webhdfs", "abfs", "memory", "S3", "smb"]


@st.composite
def urls(draw):
    """Give URLs whose user, password, query or fragment hold the mark."""
    scheme, host, path, secret = (
        draw(st.sampled_from(SCHEMES)),
        draw(WORD),
        draw(WORD),
        draw(SECRET),
    )
    port = draw(st.sampled_from(["", ":80"]))
    end = draw(st.sampled_from(["", "/", f"/{path}", f"/{path}/x.npy"]))
    return draw(
        st.sampled_from(
            [
                f"{scheme}://user:{secret}@{host}{port}{end}",
                f"{scheme}://u:{secret}@{host}{port}{end}?sig={secret}",
                f"{scheme}://{host}{port}{end}?sig={secret}&x=1",
                f"{scheme}://{host}{port}{end}#access_token={secret}",
                f"{scheme}://:{secret}@{host}{port}{end}",
                f"{scheme}://{MARK}@{host}{port}{end}",
                f"https://{host}{port}/x;token={secret}",
            ]
        )
    )


@given(urls())
def test_no_url_is_shown_with_what_may_be_a_secret(url):
    for chain in (url, f"simplecache::{url}", f"zip://x.npy::{url}", f"zip://a::filecache::{url}"):
        seen = shown(chain)
        assert MARK not in seen
        assert shown(seen) == seen
        assert seen.startswith(chain[: chain.index("://")])
        assert MARK not in repr(Remote(chain))
    assert MARK not in File(url, 1, "").shown


@given(urls(), urls())
def test_no_text_shows_what_may_be_a_secret_of_its_urls(one, other):
    texts = [
        f"cannot open {one!r}: no route to {other!r}.",
        json.dumps({"url": one, "other": [other]}),
        repr([one, {"x": other}]),
        f"first\n{one!r}\nthen\n{other!r}\n",
    ]
    if not any(each.isspace() for each in one + other):
        texts += [f"cannot open {one}: {other} is gone", f"{one}\n{other}", f"{one},{other}"]
    for text in texts:
        assert MARK not in redacted(text)


@pytest.mark.parametrize(
    ("url", "visible"),
    [
        ("s3:/bucket/x.npy?sig=hUsH", "s3:/bucket/x.npy?***"),
        ("https//user:hUsH@host/x.npy", "https//***@host/x.npy"),
        ("https:/user:hUsH@host/x.npy", "https:/***@host/x.npy"),
        ("ftp//user:hUsH/Wq7@host/x.npy", "ftp//***@host/x.npy"),
        ("https://host/x.npy;token=hUsH", "https://host/x.npy;***"),
        ("s3://bucket/a;b.npy", "s3://bucket/a;b.npy"),
        ("s3/x.npy", "s3/x.npy"),
    ],
)
def test_a_url_without_a_sign_is_read_as_it_was_meant(url, visible):
    assert shown(url) == visible
    assert MARK not in redacted(f"cannot open {url!r}: {url} does not exist", url=url)


@given(urls())
def test_what_a_client_says_of_a_url_is_told_without_its_secret(url):
    error = OSError(f"530 cannot log in with {url}")

    assert MARK not in Remote(url).redact(f"{error!r} {error}")


@pytest.mark.parametrize("secret", ["hUsH/Wq7", "Wq7/hUsH", "a?hUsH", "a#hUsH/b", "a:hUsH/b@c"])
def test_a_part_of_a_password_that_a_client_cuts_off_is_hidden(secret):
    url = f"ftp://user:{secret}@host/x.parquet"

    assert Remote(url).redact(f"port could not be cast: {MARK!r}") == (
        f"port could not be cast: {HIDDEN!r}"
    )


def test_an_error_of_a_password_that_is_taken_for_a_port_does_not_show_it():
    with pytest.raises(RayKMeansError, match="cannot be opened") as raised:
        open_source("ftp://user:hUsH/Wq7@host/x.parquet")

    assert MARK not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a b/x.npy",
        "s3://bucket/me@home/x.npy",
        "hf://datasets/me/set@main/x.parquet",
        "http://host:9000/x.npy",
        "http://[::1]:9000/x.npy",
        "https://host.org/package@1.2/x.npy",
        "zip://*.npy::/tmp/x.zip",
        "simplecache::s3://bucket/x.npy",
        "s3://arn:aws:s3:us-west-2:123:accesspoint/name/x.npy",
        "/data/what?/a=b/x#1@2.npy",
        "file:///data/what?/a=b/x#1@2.npy",
        "relative?x=1.npy",
        r"C:\data\x.npy",
    ],
)
def test_what_is_no_secret_is_shown(text):
    assert shown(text) == redacted(text) == text


@dataclasses.dataclass
class Credential:
    """A key in an object of a client."""

    key: object


LEAVES = st.one_of(
    SECRET,
    SECRET.map(str.encode),
    st.integers(10**5, 10**9),
    st.floats(1e3, 1e6),
    st.booleans(),
    st.text("abcXYZ", min_size=1, max_size=3),
)
NAMES = st.sampled_from(
    ["key", "host_key", "proxy_url", "project_secret", "region2", "my_endpoint", "anonymous", "x"]
)


def wraps():
    """Give ways to put a value somewhere inside options."""
    around = [
        lambda value, name: {name: value},
        lambda value, name: [value],
        lambda value, name: (1, value),
        lambda value, name: {"client_kwargs": {name: [value]}},
        lambda value, name: {"retries": {name: value}},
        lambda value, name: {"anon": [value]},
        lambda value, name: Credential(value),
    ]
    return st.lists(st.tuples(st.sampled_from(around), NAMES), min_size=1, max_size=3)


@given(st.data())
def test_no_value_of_an_option_is_told_by_what_a_client_says(data):
    leaf = data.draw(LEAVES)
    value = data.draw(st.sampled_from([leaf, {leaf}, [leaf], (leaf,)]))
    for wrap, name in data.draw(wraps()):
        value = wrap(value, name) if not isinstance(value, Credential) else {name: value}
    options = {"given": value, "anon": False, "region_name": "us-east-1"}
    told = leaf.decode() if isinstance(leaf, bytes) else str(leaf)
    assume(told.strip())

    texts = [f"refused <{told}>", f"refused {options!r}", f"token={told}", f"({told!r}, 'x')"]
    for text in texts:
        seen = redacted(text, options)
        if isinstance(leaf, str | bytes) and MARK in told:
            assert MARK not in seen, (seen, options)
        assert f"<{told}>" not in seen
        assert f"={told}" not in seen
    assert redacted("us-east-1 has none", {"region_name": "us-east-1"}).startswith("us-east-1 ")


def test_the_user_info_of_an_endpoint_is_hidden_and_the_rest_is_not():
    options = {"client_kwargs": {"endpoint_url": f"http://me:{MARK}/x@shown:9000/p?sig={MARK}2"}}

    seen = redacted(f"http://shown:9000/p says that {MARK}/x and {MARK}2 are wrong", options)

    assert seen == "http://shown:9000/p says that *** and *** are wrong"


X = np.random.default_rng(5).normal(size=(90, 3)).astype(np.float32)


def fails(texts, call):
    with pytest.raises(RayKMeansError) as caught:
        call()
    again = pickle.loads(pickle.dumps(caught.value))
    texts += [str(caught.value), repr(caught.value), str(again), repr(again), str(vars(again))]
    texts.append("".join(traceback.format_exception(caught.value)))


@settings(max_examples=3, phases=(Phase.explicit, Phase.generate))  # an example is a run
@given(secret=SECRET.filter(lambda secret: not {*"#?"} & {*secret}), hidden=SECRET)
def test_nothing_that_a_run_says_or_writes_holds_a_secret(secret, hidden):
    """Of the URLs of model, data and output, and of the options."""
    place = f"memory://user:{secret}@{uuid.uuid4().hex}"
    options = {"nested": {"token": [hidden]}, "host_key": hidden, "pin": 90_210_331}
    config = RunConfig(num_workers=0, storage_options=options, progress=False)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    log = logging.getLogger("ray_kmeans")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        texts = run_all(place, options, config)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    texts += [record.getMessage() for record in records]
    for text in texts:
        assert MARK not in text
        assert "90210331" not in text


def run_all(place, options, config):
    """Fit, label, evaluate and fail; return all that was said and written."""
    km = KMeansClustering(2, f"{place}/model", use_mini_batch=False, config=config)
    km.fit(X, steps=2)
    km.evaluate(X)
    state = ModelDir.at(f"{place}/model", options, 5).fitted()
    output = LabelledOutput.at(f"{place}/out", options)
    source = open_source(X, storage_options=options)
    label.write_labels(state, source, output, km.config, model_dir=f"{place}/model")
    fs = output.fs
    texts = [fs.cat_file(path).decode("latin-1") for path in fs.find(output.path)]
    texts += [fs.cat_file(path).decode("latin-1") for path in fs.find(km._model_dir().path)]
    texts += [repr(km), repr(km.config), repr(source), repr(output), repr(Remote(place, options))]
    fails(texts, lambda: km.fit(np.ones((9, 7)), steps=1))
    fails(texts, lambda: km.fit(f"{place}/nothing.npy", steps=1))
    fails(texts, lambda: open_source(f"{place}/nothing", storage_options=options))
    fails(texts, lambda: km.predict(np.ones((9, 7)), as_iterable=False))
    fails(texts, lambda: km.evaluate(X, checkpoint_path=f"{place}/model/checkpoints/9.json"))
    fails(texts, lambda: KMeansClustering(2, f"{place}/no", config=config).clusters())
    return texts
