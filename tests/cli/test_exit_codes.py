"""How a command ends: 0, 1, 2, 130 or 143, as the guide to jobs says."""

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

import ray_kmeans
from ray_kmeans import KMeansClustering, RunConfig, cli
from ray_kmeans.cli import exit_codes
from tests.support.commands import refused

ROOT = Path(__file__).parents[2]
MADE = ["--num-rows", "400000", "--num-features", "8", "--num-clusters", "5"]
MADE += ["--rows-per-file", "1000"]
WRONG = {
    "fit": ["nowhere", "m", "--num-clusters", "2"],
    "predict": ["nowhere", "m", "x"],
    "drift": ["nowhere", "m"],
    "evaluate": ["nowhere", "m"],
    "export": ["m", "x"],
    "report": ["m", "x"],
}


def test_the_guide_names_every_exit_code():
    guide = (ROOT / "docs" / "guides" / "jobs.md").read_text()
    line = re.search(r"^- Exit codes: (.*?)^- ", guide, re.M | re.S)[1]
    listed = re.findall(r"^(\d+) ", exit_codes.__doc__, re.MULTILINE)

    assert re.findall(r"\b(\d+) ", line) == listed == ["0", "1", "2", "130", "141", "143"]


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
@pytest.mark.parametrize("words", [["--no-such-flag"], ["a", "b", "c", "d", "e"], ["--config"]])
def test_flags_that_a_command_does_not_take_are_2(name, words):
    code, line = refused([name, *words])

    assert code == 2
    assert line.endswith(f"See `ray-kmeans {name} --help`.")


TWO = ["x.npy", "m", "--num-clusters", "2", "--num-workers", "0"]
MAKE = ["make-dataset", "x", "--num-features", "2", "--num-clusters", "1", "--num-rows"]
UNUSABLE = {
    "nothing": (["fit"], "these are missing: URI MODEL_DIR --num-clusters"),
    "no command": (["fid", "a"], "'fid' is no command. Give one of fit, choose-k, predict,"),
    "no command but a flag": (["--num-rows"], "'--num-rows' is no command"),
    "a misspelled flag": (
        ["fit", *TWO, "--distance-metrik", "hush"],
        r"--distance-metrik is not known \(nearest: --distance-metric\)",
    ),
    "a misspelled flag with =": (
        ["fit", *TWO, "--storage-option={'key': 'hush'}"],
        r"--storage-option is not known \(nearest: --storage-options\)",
    ),
    "a value in several words": (
        ["fit", *TWO, "--storage-options", "{}", "'hush'"],
        "more words than it takes; quote a value",
    ),
    "a value for a switch, as in Python": (
        ["fit", *TWO, "--use-mini-batch", "False"],
        "--use-mini-batch takes no value, not 'False'. Give --use-mini-batch or --no-use-mini-bat",
    ),
    "a value for a switch with =": (["fit", *TWO, "--no-center=true"], "--center or --no-center"),
    "no of what is no switch": (["fit", *TWO, "--no-num-clusters"], "--no-num-clusters is not"),
    "no value": (["fit", *TWO, "--max-steps"], "Missing value for argument '--max-steps'"),
    "text for a number": (["fit", *TWO[:3], "x"], "--num-clusters takes int, not 'x'"),
    "a fraction for a whole number": (["fit", *TWO[:3], "2.5"], "takes int, not '2.5'"),
    "text for a number or none": (
        ["fit", *TWO, "--relative-tolerance", "abc"],
        r"--relative-tolerance takes float \| None, not 'abc'",
    ),
    "another choice": (["fit", *TWO, "--nonfinite", "x"], "invalid choice 'x' for argument"),
    "another choice of the config": (["fit", *TWO, "--cache", "x"], "choice 'x' for argument"),
    "a number that the config refuses": (
        ["fit", *TWO[:4], "--num-workers", "-1"],
        "error: num_workers=-1 must be a whole number of at least 0",
    ),
    "a number that the command refuses": ([*MAKE, "0"], "num_rows=0"),
    "filters that are not JSON": (
        ["predict", "a", "b", "c", "--filters", "["],
        r"error: filters is not JSON: Expecting value.* Give it as in --filters '\[\[\"id\", ",
    ),
    "options that are not JSON": (["fit", *TWO, "--storage-options", "{hush"], "not JSON: Expect"),
    "options that are no dict": (["fit", *TWO, "--storage-options", "[1]"], "is a list; it must"),
    "flags that exclude each other": (
        ["fit", *TWO, "--batch-size", "9", "--no-use-mini-batch"],
        "batch_size",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_flags_that_cannot_be_used_are_one_line_and_2(case, tmp_path, monkeypatch):
    words, told = UNUSABLE[case]
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((9, 2), np.float32))

    code, line = refused(words)

    assert code == 2
    assert re.search(told, line)
    assert "hush" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_a_warning_is_one_line_without_a_place_in_our_code():
    code = "import warnings; from ray_kmeans.cli import exit_codes\n"
    code += "exit_codes.run(lambda: warnings.warn('of a\\nname'))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)

    assert (ran.returncode, ran.stderr) == (0, "warning: of a\\nname\n")


def test_the_version_is_told(capsys):
    for call in (
        lambda: cli.main(["--version"]),
        lambda: cli.main(["fit", "--version"]),
        lambda: cli.job("report", ["--version"]),
    ):
        call()
        assert capsys.readouterr().out == f"ray-kmeans {ray_kmeans.__version__}\n"


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    "words",
    [
        ["-c", "from ray_kmeans.cli import main; main()", "fit", "--help"],
        ["jobs/make_dataset.py", "--num-rows", "20", *MADE[2:], "--num-workers", "0"],
    ],
)
def test_a_reader_that_goes_away_is_no_error(words, buffered, tmp_path):
    env = {**os.environ, "PYTHONUNBUFFERED": buffered, "PYTHONPATH": str(ROOT)}
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *words, *([str(tmp_path / "x")] if "--help" not in words else [])]

    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=120, env=env
    )

    os.close(writing)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_no_command_and_help_tell_all_commands(capsys):
    for words in ([], ["--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)

        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert {name for name in cli.COMMANDS if name not in shown} == set()


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
    told = lambda *about, **more: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
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

    assert code == exit_codes.STOPPED == 143
    assert "stopped by SIGTERM. Run the same again." in said
    assert len(there) < 400
    assert {name: (cut / name).stat().st_mtime_ns for name in there} == there
    assert pq.read_table(cut) == pq.read_table(whole)
    assert len(list(cut.glob("*.parquet"))) == 400
