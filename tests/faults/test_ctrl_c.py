"""Ctrl-C ends a command in one line and with 130, wherever it is, and no finished step is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from ray_kmeans import KMeansClustering, RunConfig, cli
from ray_kmeans.demo import DATA
from ray_kmeans.engine.checkpoint_saver import Saver
from ray_kmeans.engine.newest_state import NewestState
from tests.support import pausing
from tests.support.ray_runs import bits, comes_true, descendants, state_of
from tests.support.servers import lasting_ray

K = 40
STEPS = 40
PARAMS = {"use_mini_batch": False, "initial_clusters": "kmeans_plus_plus"}
HERE = RunConfig(num_workers=0, progress=False)


def fit_words(model_dir, *more):
    words = ["fit", DATA, model_dir, f"--num-clusters={K}", "--no-use-mini-batch"]
    words += ["--initial-clusters=kmeans_plus_plus", f"--max-steps={STEPS}"]
    return [*words, "--log-step-count-steps=1", *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    place = tmp_path_factory.mktemp("undisturbed") / "m"
    KMeansClustering(K, str(place), config=HERE, **PARAMS).fit(str(DATA), max_steps=STEPS)
    return state_of(place)


def interrupted(process, sign):
    """Press Ctrl-C when the process pauses; return what it wrote to stderr."""
    assert comes_true(lambda: sign.exists() or process.poll() is not None, 90)
    process.send_signal(signal.SIGINT)
    sign.unlink()
    _, said = process.communicate(timeout=90)
    return said


def check_said(process, said):
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.count("stopped by Ctrl-C") == 1
    assert said.splitlines()[-1].startswith("stopped by Ctrl-C. ")


ENGINE = "ray_kmeans.engine"
PHASES = {
    "planning": ("ray_kmeans.workflows.fit:plan_shards", 1, None),
    "reading": (f"{ENGINE}.shard:Shard._admit", 2, None),
    "compiling": (f"{ENGINE}.worker:ShardWorker.get_ready", 1, None),
    "seeding": (f"{ENGINE}.worker:ShardWorker.potentials", 4, None),
    "saving the seeding": ("ray_kmeans.io.publish:put", 4, 0),
    "iterating": (f"{ENGINE}.worker:ShardWorker.sweep", 10, 9),
    "ending": (f"{ENGINE}.worker:ShardWorker.peak_bytes", 1, STEPS),
}


@pytest.mark.long(kind="ctrl-c")
@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_in_any_phase_of_a_fit_is_one_line_and_130(phase, tmp_path, undisturbed):
    point, call, least = PHASES[phase]
    if phase == "planning":
        point = "ray_kmeans.workflows.worker_plan:plan_shards"
    words, sign = fit_words(tmp_path / "m", "--num-workers=0"), tmp_path / "sign"
    process = pausing.start(words, point, sign, call)
    said = interrupted(process, sign)

    check_said(process, said)
    state = state_of(tmp_path / "m")
    if least is not None:
        assert state.iteration >= least or phase == "ending"
    cli.main([*map(str, words)])
    assert bits(state_of(tmp_path / "m")) == bits(undisturbed)


@pytest.mark.parametrize("command", ["predict", "evaluate", "make-dataset"])
def test_ctrl_c_ends_any_command_so(command, tmp_path, undisturbed):
    KMeansClustering(K, str(tmp_path / "m"), config=HERE, **PARAMS).fit(str(DATA), max_steps=2)
    point, words = {
        "predict": (f"{ENGINE}.worker:ShardWorker.write_labels", [DATA, tmp_path / "m", "out"]),
        "evaluate": (f"{ENGINE}.shard:Shard._admit", [DATA, tmp_path / "m"]),
        "make-dataset": (
            "ray_kmeans.workflows.make_dataset:write_file",
            ["made", "--num-rows=9", "--num-features=2", "--num-clusters=1"],
        ),
    }[command]
    words = [tmp_path / word if word in ("out", "made") else word for word in words]
    process = pausing.start([command, *words, "--num-workers=0"], point, tmp_path / "sign")

    check_said(process, interrupted(process, tmp_path / "sign"))
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    words, sign = fit_words(tmp_path / "m", "--num-workers=0"), tmp_path / "sign"
    words.append("--save-checkpoints-steps=1")
    process = pausing.start(words, "ray_kmeans.io.publish:seal", sign, 3)
    assert comes_true(lambda: sign.exists() or process.poll() is not None, 90)
    process.send_signal(signal.SIGINT)  # the checkpoint under way is waited for
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert time.monotonic() - begin < 5
    assert "Traceback" not in said


API = """
import sys
from ray_kmeans import KMeansClustering, RunConfig, cli
workers, where = int(sys.argv[2]), sys.argv[3] or None
config = RunConfig(num_workers=workers, ray_address=where, progress=False, cache="source")
km = KMeansClustering({k}, sys.argv[1], use_mini_batch=False, config=config,
                      initial_clusters="kmeans_plus_plus")
from ray_kmeans.observe import events as ev, log
tell = log.LogLines.__call__
def loud(self, event):
    tell(self, event)
    if isinstance(event, ev.IterationDone):
        print("did", event.line.iteration, flush=True)
log.LogLines.__call__ = loud
try:
    km.fit({data!r}, max_steps={steps})
except KeyboardInterrupt:
    print("caught", len(km.history()), flush=True)
"""


def program(model_dir, workers, address=""):
    """Start a program that fits and catches Ctrl-C itself."""
    code = API.format(k=K, data=str(DATA), steps=100_000)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(model_dir), str(workers), address],
        cwd=pausing.ROOT,
        env={**os.environ, "PYTHONPATH": str(pausing.ROOT)},
        preexec_fn=pausing.hear_ctrl_c,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_caught(process):
    """Press Ctrl-C after an iteration: the program catches it when all steps are saved."""
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("did 5"):
            process.send_signal(signal.SIGINT)
    process.wait(60)
    lines = text.splitlines()
    caught = [line for line in lines if line.startswith("caught")]
    done = [int(line.split()[1]) for line in lines if line.startswith("did")]
    assert len(caught) == 1, text
    assert int(caught[0].split()[1]) >= max(done) >= 5


def test_a_program_catches_ctrl_c_when_the_steps_are_saved(tmp_path):
    slow = program(tmp_path / "m", 0)
    check_caught(slow)


def test_what_is_being_saved_is_waited_for():
    class Slow:
        def __init__(self):
            self.saved = []

        def save(self, state):
            time.sleep(0.5)
            self.saved.append(state)
            return "path"

    store, reached = Slow(), NewestState()
    with Saver(store, lambda event: None) as saver:
        reached.note(store, "older")
        saver.save(_Iteration("older"))
        reached.leave_to(saver)
        reached.save()
        assert len(store.saved) == 1
        reached.note(store, "newer")
        reached.save()
        assert store.saved[1:] == ["newer"]


class _Iteration(str):
    iteration = 1


# --- on Ray ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_of_its_own():
    with lasting_ray(4) as (head, address):
        yield head, address


def left(head):
    titles = ("ray::KMeansWorker", "ray::Coordinator")
    return [title for title in descendants(head.pid).values() if title.startswith(titles)]


def wait_for_line(process, words):
    text = ""
    for line in process.stderr:
        text += line
        if words in line:
            return text
    raise AssertionError(text)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.parametrize("words", ["iteration=9 ", "seeding: ", "reading: ", "plan: "])
def test_ctrl_c_on_ray_saves_all_steps_and_ends_all_processes(
    words, ray_of_its_own, tmp_path, undisturbed
):
    head, address = ray_of_its_own
    args = fit_words(tmp_path / "m", "--num-workers=2", "--cache=source")
    process = pausing.start(args, RAY_ADDRESS=address)
    before = wait_for_line(process, words)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=90)

    check_said(process, before + said)
    if words.startswith("iteration"):
        assert state_of(tmp_path / "m").iteration >= 9
    assert comes_true(lambda: not left(head))
    again = pausing.start(args, RAY_ADDRESS=address)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert bits(state_of(tmp_path / "m")) == bits(undisturbed)


@pytest.mark.ray
def test_ctrl_c_while_ray_starts_is_one_line_and_130(tmp_path):
    sign = tmp_path / "sign"
    words = fit_words(tmp_path / "m", "--num-workers=1")
    process = pausing.start(words, "ray._private.node:Node.start_ray_processes", sign)

    check_said(process, interrupted(process, sign))


@pytest.mark.ray
def test_a_program_on_ray_catches_ctrl_c_when_the_steps_are_saved(ray_of_its_own, tmp_path):
    head, address = ray_of_its_own
    check_caught(program(tmp_path / "m", 2, address))
    assert comes_true(lambda: not left(head))
