"""The figures of a run for Prometheus: what is counted, and what the dashboard draws of it."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ray_kmeans.algorithm.state import Iteration, Restart
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray import prometheus
from ray_kmeans.on_ray.prometheus import RayMetrics
from tests.support.log_lines import RUN, done, fit

DASHBOARD = Path(__file__).parents[2] / "cluster_configs" / "grafana.json"


class Served:
    """What Ray would serve: figures by name and labels, kept as simply as can be."""

    def __init__(self, monkeypatch):
        self.kinds, self.figures = {}, defaultdict(float)
        for kind, end in {"Counter": "_total", "Gauge": "", "Histogram": ""}.items():
            monkeypatch.setattr(prometheus, kind, self.maker(kind, end))

    def maker(self, kind, end):
        def make(name, description, *more):
            assert description.endswith(".")
            full = f"ray_{name}{end}"
            assert full not in self.kinds, "two of one name"
            self.kinds[full] = kind
            labels = more[-1] if more and isinstance(more[-1], tuple) else ()
            return _Figure(self, full, labels)

        return make

    def __getitem__(self, key):
        return self.figures[key]


class _Figure:
    def __init__(self, served, name, labels):
        self.served, self.name, self.labels = served, name, labels

    def _key(self, tags):
        assert tuple(tags or ()) == self.labels
        return " ".join([self.name, *(tags or {}).values()])

    def inc(self, value=1.0, tags=None):
        assert value > 0, "a counter of Ray raises"
        self.served.figures[self._key(tags)] += value

    def set(self, value):
        self.served.figures[self._key(None)] = value

    def observe(self, value):
        self.inc()


@pytest.fixture
def served(monkeypatch):
    return Served(monkeypatch)


def listen(events):
    count = RayMetrics()
    for event in events:
        count(event)


def step(iteration, rows, inertia, empty, seconds, wait=0.0, reduce=0.0):
    line = Iteration(iteration, rows, inertia, 0.25, empty, "d")
    return ev.IterationDone(line, seconds, wait, reduce)


STEPS = [
    step(1, 200, 12.5, 3, 2.0, wait=0.25, reduce=0.5),
    step(2, 200, 9.5, 1, 1.0, wait=0.5),
    step(3, 50, 7.25, 0, 0.5),
]


def test_counters_are_sums_over_the_steps_and_gauges_are_of_the_last_one(served):
    listen(STEPS)

    assert dict(served.figures) == {
        "ray_kmeans_iterations_total": 3,
        "ray_kmeans_rows_total": 450,
        "ray_kmeans_iteration_seconds": 3,
        "ray_kmeans_seconds_total compute": 1.25 + 0.5 + 0.5,
        "ray_kmeans_seconds_total wait": 0.75,
        "ray_kmeans_seconds_total reduce": 0.5,
        "ray_kmeans_rows_per_second": 100,
        "ray_kmeans_inertia": 7.25,
        "ray_kmeans_empty_clusters": 0,
    }


def test_the_parts_of_a_step_add_up_to_it():
    assert [event.compute + event.wait + event.reduce for event in STEPS] == [2.0, 1.0, 0.5]
    assert done(1, seconds=0.5).compute == 0.5
    assert step(1, 9, 1.0, 0, 1.0, wait=0.8, reduce=0.3).compute == 0  # clocks are not exact


def test_reading_seeding_and_checkpoints_have_their_seconds(served):
    listen(
        [
            ev.DataLoaded(200, 3, 1.5, ("h", 1), (("h", 2),)),
            ev.Seeded("random", 4, 0.75),
            *(ev.CheckpointSaved("a", 0, 0.25), ev.CheckpointSaved("b", 9, 0.5)),
        ]
    )

    assert dict(served.figures) == {
        "ray_kmeans_loaded_bytes_total": 200 * 3 * 4,
        "ray_kmeans_seconds_total reading": 1.5,
        "ray_kmeans_seconds_total seeding": 0.75,
        "ray_kmeans_seconds_total checkpoint": 0.75,
        "ray_kmeans_checkpoints_total": 2,
    }


def test_losses_are_counted_by_what_was_lost(served):
    listen([ev.WorkerReplaced(1, "c"), ev.CoordinatorReplaced("c"), ev.WorkerReplaced(0, "c")])

    assert dict(served.figures) == {
        "ray_kmeans_replacements_total worker": 2,
        "ray_kmeans_replacements_total coordinator": 1,
    }


def test_every_event_can_be_counted_and_zeros_too(served):
    others = [ev.Warned("w"), ev.WorkerReplaced(1, "c"), ev.CoordinatorReplaced("c")]
    others += [ev.WorkersLag(1, 20), ev.WorkersJoined(3), ev.Logged("l"), ev.EndedBefore(None, 9)]
    others += [ev.RestartEnded(1, 3, Restart(7, 2.5, 9, None)), ev.NodesSplit(2, 3, 10, 30)]
    events = [*RUN, *others, ev.Waiting(1, 2, 0.5), step(10, 1, 0.0, 0, 0.0)]

    listen(events)

    assert {type(event) for event in events} == set(ev.Event.__args__)


# --- the dashboard ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard():
    return json.loads(DASHBOARD.read_text())


def queries(dashboard):
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_draws_all_that_is_exported_and_nothing_else(served, dashboard):
    listen([])

    drawn = set(re.findall(r"\bray_kmeans_\w+", " ".join(queries(dashboard))))

    assert {name.removesuffix("_bucket") for name in drawn} == set(served.kinds)


def test_the_docstring_lists_all_that_is_exported(served):
    listen([])

    assert re.findall(r"`(ray_kmeans_\w+)`", RayMetrics.__doc__) == sorted(
        served.kinds, key=RayMetrics.__doc__.index
    )
    assert len(served.kinds) == 10


def test_only_counters_have_a_rate_and_only_histograms_quantiles(served, dashboard):
    listen([])

    for query in queries(dashboard):
        rated = set(re.findall(r"rate\((\w+)", query))
        kinds = {served.kinds[name.removesuffix("_bucket")] for name in rated}
        assert kinds <= ({"Histogram"} if "histogram_quantile" in query else {"Counter"}), query


def test_every_panel_asks_the_source_that_is_chosen(dashboard):
    (variable,) = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    assert variable["query"] == "prometheus"

    for panel in dashboard["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]


def test_panels_do_not_lie_on_each_other(dashboard):
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_a_fit_without_ray_counts_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray_kmeans.on_ray.prometheus", None)  # no import of it works

    fit(tmp_path)
