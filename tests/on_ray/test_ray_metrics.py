"""The figures of a fit, as a node of a real Ray serves them to Prometheus."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

pytest.importorskip("prometheus_client", reason="Ray serves no metrics without ray[default]")

pytestmark = pytest.mark.ray

DRIVER = """
import json, sys, tempfile, time, urllib.request
from dataclasses import asdict

import numpy as np
import ray
from prometheus_client.parser import text_string_to_metric_families as families

from ray_kmeans import KMeansClustering, RunConfig

SECONDS = 60


def figures(url):
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    samples = [sample for family in families(text) for sample in family.samples]
    kept = [sample for sample in samples if sample.name.startswith("ray_kmeans")]
    return {(s.name, *sorted(s.labels.items())): s.value for s in kept}


with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _temp_dir=place,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    config = RunConfig(num_workers=2, save_checkpoints_steps=2)
    km = KMeansClustering(5, sys.argv[1], x[:5], use_mini_batch=False, config=config)
    km.fit(x, steps=3)
    km.fit(x, steps=2)

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    end, found = time.monotonic() + SECONDS, {}
    while time.monotonic() < end:
        found |= figures(url)  # as Prometheus would: gauges that do not change are served shortly
        counts = [found[key] for key in found if key[0] == "ray_kmeans_iterations_total"]
        if sum(counts) >= 5:
            break
        time.sleep(0.2)
    time.sleep(1.5)  # one more report: what comes twice would show
    found |= figures(url)
    history = [asdict(line) for line in km.history()]
    listed = [[name, dict(labels), value] for (name, *labels), value in found.items()]
    print(json.dumps([listed, history, len(km.checkpoints())]))
    ray.shutdown()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Fit twice on a Ray of its own; return what its node served, the history and checkpoints."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path_factory.mktemp("model"))]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout.splitlines()[-1])


def value_of(found, wanted, **labels):
    """Return the one figure of this name with these labels."""
    values = [
        value for name, its, value in found if name == wanted and labels.items() <= its.items()
    ]
    assert len(values) == 1, [(name, its) for name, its, _ in found]
    return values[0]


@pytest.mark.long
def test_a_node_serves_what_the_history_says(run):
    found, history, _ = run

    assert len(history) == 5
    assert value_of(found, "ray_kmeans_iterations_total") == 5
    assert value_of(found, "ray_kmeans_rows_total") == sum(line["rows"] for line in history)
    assert value_of(found, "ray_kmeans_inertia") == history[-1]["inertia"]
    assert value_of(found, "ray_kmeans_empty_clusters") == history[-1]["empty"]
    assert value_of(found, "ray_kmeans_rows_per_second") > 0


@pytest.mark.long
def test_a_node_serves_bytes_checkpoints_and_seconds(run):
    found, _, kept = run

    assert value_of(found, "ray_kmeans_loaded_bytes_total") == 2 * 500 * 3 * 4
    assert value_of(found, "ray_kmeans_checkpoints_total") == kept
    for part in ("reading", "compute"):
        assert 0 < value_of(found, "ray_kmeans_seconds_total", part=part) < 240
    assert value_of(found, "ray_kmeans_iteration_seconds_count") == 5
    assert value_of(found, "ray_kmeans_iteration_seconds_bucket", le="+Inf") == 5
    assert math.isfinite(value_of(found, "ray_kmeans_iteration_seconds_sum"))


def test_labels_that_the_dashboard_asks_for_are_rays(run):
    found, _, _ = run

    for name, labels, _ in found:
        assert {"SessionName", "WorkerId"} <= set(labels), name
