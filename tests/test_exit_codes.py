"""How a command ends: 0, 1, 2, 130 or 143, as the README says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig, cli
from ray_kmeans.cli import ending

ROOT = Path(__file__).parents[1]
MADE = ["--num-rows", "400000", "--num-features", "8", "--num-clusters", "5"]
MADE += ["--rows-per-file", "1000"]
WRONG = {
    "make-dataset": ["x", "--num-rows", "0", "--num-features", "2", "--num-clusters", "1"],
    "fit": ["nowhere", "m", "--num-clusters", "2"],
    "predict": ["nowhere", "m", "x"],
    "evaluate": ["nowhere", "m"],
    "export": ["m", "x"],
    "report": ["m", "x"],
}


def test_the_readme_names_every_exit_code():
    line = re.search(r"^- Exit codes: (.*?)^- ", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    listed = re.findall(r"^(\d+) ", ending.__doc__, re.MULTILINE)

    assert re.findall(r"\b(\d+) ", line) == listed == ["0", "1", "2", "130", "143"]


@pytest.mark.parametrize("name", WRONG)
def test_an_error_is_one_line_and_1(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    here = ["--num-workers", "0"] if name not in ("export", "report") else []

    with pytest.raises(SystemExit) as caught:
        cli.main([name, *WRONG[name], *here])

    assert str(caught.value.code).startswith("error: ")  # Python prints it and ends with 1
    assert "\n" not in str(caught.value.code)
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", cli.COMMANDS)
@pytest.mark.parametrize("words", [["--no-such-flag"], ["a", "b", "c", "d", "e"]])
def test_flags_that_a_command_does_not_take_are_2(name, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([name, *words])

    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_no_command_and_help_tell_all_commands(capsys):
    for words in ([], ["--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)

        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert {name for name in cli.COMMANDS if name not in shown} == set()


def test_a_command_that_is_none_is_2(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["fid", "a", "b"])

    assert caught.value.code == 2


def test_the_handler_of_sigterm_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path), str(tmp_path / "x")])

    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("name", ["fit", "predict", "evaluate", "export", "report", "demo"])
def test_sigterm_ends_any_command_with_143(name, tmp_path, monkeypatch, capsys):
    X = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / "x.npy", X)
    here = RunConfig(num_workers=0, progress=False)
    KMeansClustering(2, str(tmp_path / "m"), use_mini_batch=False, config=here).fit(X)
    places = {"fit": "x.npy m", "predict": "x.npy m out", "evaluate": "x.npy m", "demo": ""}
    words = places.get(name, "m out").split() + ["--num-clusters", "2"] * (name == "fit")
    monkeypatch.chdir(tmp_path)
    told = lambda *about: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(f"ray_kmeans.cli.{name}.announce", told)

    with pytest.raises(SystemExit) as caught:
        cli.main([name, *words, *(["--num-workers", "0"] if name in places else [])])

    assert caught.value.code == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def stopped_after_a_file(output, *more):
    """Run the job until it has made a file, send it SIGTERM, and return how it ended."""
    job = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "make_dataset.py"), str(output), *MADE, *more],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    end = time.monotonic() + 120
    while not list(output.glob("*.parquet")):
        assert job.poll() is None, job.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=60)
    return job.returncode, said


@pytest.mark.parametrize(
    "more", [["--num-workers", "0"], pytest.param([], marks=pytest.mark.ray)], ids=["here", "ray"]
)
def test_sigterm_is_143_and_the_same_command_goes_on(more, tmp_path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    here = ["--num-workers", "0"]

    code, said = stopped_after_a_file(cut, *more)
    there = {path.name: path.stat().st_mtime_ns for path in cut.glob("*.parquet")}
    cli.main(["make-dataset", str(cut), *MADE, *here])
    cli.main(["make-dataset", str(whole), *MADE, *here])

    assert code == ending.STOPPED == 143
    assert "stopped by SIGTERM. Run the same again." in said
    assert len(there) < 400
    assert {name: (cut / name).stat().st_mtime_ns for name in there} == there
    assert pq.read_table(cut) == pq.read_table(whole)
    assert len(list(cut.glob("*.parquet"))) == 400
