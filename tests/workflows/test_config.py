"""RunConfig: wrong values are refused by name, secrets stay out of texts, every field explained."""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import math
import pickle
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, config
from ray_kmeans.errors import ConfigError
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir

AT_LEAST_0 = ["num_workers"]
AT_LEAST_1 = [
    "worker_memory_bytes",
    "save_checkpoints_steps",
    "keep_checkpoint_max",
    "save_summary_steps",
    "log_step_count_steps",
]
OPTIONAL = ["cpus_per_worker", "gpus_per_worker"]
ABOVE_0 = ["save_checkpoints_secs", "worker_start_timeout_s", *OPTIONAL]
NONE_HAS_NO_MEANING = ["keep_checkpoint_max", "save_summary_steps", "log_step_count_steps"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, value) for name in AT_LEAST_0 + AT_LEAST_1 for value in (-1, 1.0, "2", True)],
        *[(name, 0) for name in AT_LEAST_1],
        *[(name, value) for name in ABOVE_0 for value in (0, -1.0, math.nan, "600", True)],
        *[(name, None) for name in (*NONE_HAS_NO_MEANING, *ABOVE_0) if name not in OPTIONAL],
        *[("backend", value) for value in ("cuda", "", None)],
        ("storage_options", None),
        ("storage_options", "key=1"),
    ],
)
def test_a_value_that_no_run_can_use_is_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        RunConfig(**{field: value})

    assert field in str(caught.value)
    if field != "storage_options":  # which may hold keys
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_workers", 0),
        ("num_workers", None),
        ("num_workers", np.int64(3)),
        ("keep_checkpoint_max", 1),
        ("save_checkpoints_steps", 1),
        ("save_checkpoints_secs", 1),
        ("save_checkpoints_secs", math.inf),
        ("worker_start_timeout_s", 0.5),
        ("cpus_per_worker", None),
        ("cpus_per_worker", 0.25),
        ("cpus_per_worker", 4),
        ("backend", "auto"),
        ("backend", "cpu"),
        ("backend", "gpu"),
        ("gpus_per_worker", None),
        ("storage_options", {"anon": True}),
    ],
)
def test_a_value_that_has_a_meaning_is_kept(field, value):
    assert getattr(RunConfig(**{field: value}), field) == value


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        RunConfig().num_workers = 3


def test_the_defaults_of_the_seed_are_kept():
    default = RunConfig()

    assert (default.save_checkpoints_secs, default.keep_checkpoint_max) == (600, 5)
    assert (default.save_summary_steps, default.log_step_count_steps) == (100, 100)


def test_a_config_survives_copying_and_pickling():
    given = RunConfig(num_workers=3, storage_options={"key": "k"})

    assert copy.deepcopy(given) == given
    assert pickle.loads(pickle.dumps(given)) == given


@pytest.mark.parametrize(
    "holder",
    [
        RunConfig(storage_options={"secret": "hush"}),
        KMeansClustering(2, config=RunConfig(storage_options={"secret": "hush"})),
        ModelDir("s3://b/m", {"secret": "hush"}),
        LabelledOutput("s3://b/o", {"secret": "hush"}),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_storage_options_are_never_shown(holder):
    assert "hush" not in f"{holder!r} {holder}"


@pytest.mark.parametrize("kind", [config.RunOptions, config.RunConfig])
def test_every_field_has_a_docstring(kind):
    body = ast.parse(inspect.getsource(kind)).body[0].body
    own = {name for name in kind.__annotations__ if name in {f.name for f in fields(kind)}}

    explained = {
        line.target.id
        for line, text in itertools.pairwise(body)
        if isinstance(line, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }

    assert explained == own
