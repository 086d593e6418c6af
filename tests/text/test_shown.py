"""Names are shown in one line, whatever they hold: no name forges a line of a log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from ray_kmeans import (
    KMeansClustering,
    RunConfig,
    cli,
    errors,
    open_source,
)
from ray_kmeans.errors import RayKMeansError
from ray_kmeans.text.one_line import in_one_line

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
CONTROLS = ["\n", "\r\t\x1b\x07", "\x7f\x85\u2028\u202e\u200b", "\x00"]
CONTROLS += [os.fsdecode(b"\xff\xfe")]
NAMES = [f"forged{each}2026-11-30 ERROR all is lost" for each in CONTROLS]
LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s")


@given(st.text(st.characters()))
def test_a_text_in_one_line_is_printable_and_what_is_printable_stays(text):
    shown = in_one_line(text)

    assert shown.isprintable()
    assert shown.encode().decode() == shown
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize("control", CONTROLS)
def test_every_error_is_one_line(control):
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    given = {
        "TooFewRowsError": (2, 3),
        "BudgetError": (2, 3, control),
        "DiskFullError": (control, 2, 3),
        "NonFiniteError": (((control, 1, 2),),),
    }
    texts = 0
    for kind in kinds:
        if not issubclass(kind, RayKMeansError):
            continue
        for count in (1, 2, 3):
            try:
                error = kind(*given.get(kind.__name__, [control] * count))
                text = str(error)
            except TypeError:
                continue
            texts += 1
            assert text.isprintable(), kind
            assert "__str__" not in vars(kind) or kind is RayKMeansError, kind
    assert texts > len(kinds) / 2


@pytest.mark.parametrize("name", NAMES)
def test_a_line_of_the_log_stays_one(name, caplog):
    log = logging.getLogger("ray_kmeans")

    log.warning("cannot read %s", name)
    log.warning(f"cannot read {name}")

    assert len(caplog.records) == 2
    for record in caplog.records:
        assert LINE.format(record).isprintable()


NAMES_OF_FILES = [name for name in NAMES if not {"\x00", "\udcff"} & set(name)]
"""The others cannot be written, or are refused as they are not UTF-8."""


@pytest.mark.parametrize("name", NAMES_OF_FILES)
def test_names_of_files_and_folders_are_shown_in_one_line(name, tmp_path, caplog, capfd):
    """Fit, predict, evaluate and report, and errors of each, with a folder and files so named."""
    caplog.set_level(logging.INFO, logger="ray_kmeans")
    folder = tmp_path / name
    folder.mkdir()
    np.save(folder / f"{name}.npy", X)
    data, model = str(folder), str(tmp_path / f"model {name}")
    here = ["--num-workers", "0"]

    cli.main(["fit", data, model, "--num-clusters", "2", "--no-use-mini-batch", *here])
    cli.main(["predict", data, model, str(tmp_path / f"out {name}"), *here])
    output = str(tmp_path / f"{name}.json")
    cli.main(["evaluate", data, model, "--output", output, *here])
    page = tmp_path / f"{name}.html"
    cli.main(["report", model, str(page), "--data", data])
    failed = [
        ["fit", f"{data}x", model, "--num-clusters", "2", *here],
        ["fit", data, model, "--num-clusters", "3", *here],
        ["fit", data, model, "--num-clusters", "2", "--columns", name, *here],
        ["predict", data, f"{model}x", output, *here],
        ["evaluate", data, model, "--config", f"{name}.yaml", *here],
        ["fit", data, model, "--num-clusters", name, *here],
        [name],
    ]
    for words in failed:
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        if isinstance(caught.value.code, str):
            assert caught.value.code.isprintable()

    shown = capfd.readouterr()
    lines = [*shown.out.split("\n"), *shown.err.split("\n"), *page.read_text().split("\n")]
    assert any("all is lost" in line for line in lines)
    for line in lines:
        assert line.isprintable() or line.startswith(("<svg", " ", "\t")), line
        assert not line.startswith("2026-11-30 ERROR")
    for record in caplog.records:
        assert LINE.format(record).isprintable()


@pytest.mark.parametrize("name", [name for name in NAMES if "\udcff" not in name])
def test_names_of_columns_are_shown_in_one_line(name, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="ray_kmeans")
    pq.write_table(pa.table({name: X[:, 0], f"{name}2": X[:, 1]}), tmp_path / "x.parquet")
    pq.write_table(pa.table({name: ["text"] * 60}), tmp_path / "text.parquet")
    x = str(tmp_path / "x.parquet")
    config = RunConfig(num_workers=0, progress=False)
    km = KMeansClustering(2, str(tmp_path / "m"), use_mini_batch=False, config=config)

    km.fit(open_source(x, [name, f"{name}2"]))
    km.evaluate(open_source(x, [name, f"{name}2"]))
    for call in (
        lambda: open_source(x, [f"{name}3"]),
        lambda: km.fit(open_source(str(tmp_path / "text.parquet"), [name])),
        lambda: km.fit(x, sample_weight=f"{name}5"),
        lambda: open_source(x, [name], filters=[[f"{name}4", "==", 1]]),
        lambda: open_source(str(tmp_path / "text.parquet"), [name]),
    ):
        with pytest.raises(RayKMeansError) as caught:
            call().describe()
        assert str(caught.value).isprintable()
    for record in caplog.records:
        assert LINE.format(record).isprintable()


def test_a_name_that_is_not_text_is_refused_on_any_terminal(tmp_path):
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    np.save(place / "x.npy", X)
    command = [sys.executable, "jobs/fit.py", str(place), str(place / "m"), "--num-clusters", "2"]
    command += ["--num-workers", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}

    done = subprocess.run(
        [*command, "--num-workers", "0"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )

    assert done.returncode == 2
    assert b"caf\\udce9/m' is not UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1
