"""Two runs into one output, one of which sleeps anywhere: what is complete is right, for ever."""

from __future__ import annotations

import itertools
import uuid
from contextlib import nullcontext

import fsspec
import numpy as np
import pytest

from ray_kmeans.errors import LeaseLostError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.labelled_manifests import Manifests
from ray_kmeans.store.labelled_names import MANIFEST
from ray_kmeans.store.labelled_parts import Parts
from ray_kmeans.store.labelled_writer import LeasedOutput
from tests.support.races import CENTERS, MORE, OTHER, OTHER_ROWS, ROWS, check, files_of
from tests.support.sleepers import Sleeper, write


@pytest.fixture(scope="module")
def sleeper():
    with Sleeper() as running:
        yield running


def clear(url):
    """Delete what a refusal says that may be deleted: the markers and parts of a run."""
    fs, root = fsspec.core.url_to_fs(url)
    named = publish.unseal(files_of(url)[MANIFEST])["parts"] if MANIFEST in files_of(url) else []
    keep = {part["name"] for part in named}
    for name in files_of(url):
        part = name.endswith(".parquet") and name not in keep
        if part or name.startswith(("_unfinished", "_by_cluster")):
            fs.rm_file(f"{root}/{name}")


def follow(url, *args, **flags):
    """Write here after a holder that sleeps; clear the place first where that is asked for."""
    try:
        write(url, *args, **flags)
    except StoreError as error:
        if "unfinished output" not in str(error):
            raise
        clear(url)
        write(url, *args, **flags)


@pytest.fixture
def every(request):
    """Return a maker of numbers of calls, one in `step`: others in each run, and all with --all."""
    option = request.config.option

    def calls(step):
        first, step = (1, 1) if option.all else (1 + option.share_seed % step, step)
        return itertools.count(first, step)

    return calls


def sweep(sleeper, tmp_path, told, before, then, calls):
    """Let the sleeper write, and sleep at these of its calls while `then` is done.

    Yields the place and what the sleeper answered, each time.
    """
    for at in calls:
        url = str(tmp_path / str(at))
        before(url)
        sleeper.tell(url, at=at, **told)
        if not sleeper.falls_asleep():
            assert "rows" in sleeper.hear()
            assert at > 20
            return
        then(url)
        sleeper.wake()
        yield url, sleeper.hear()


def nothing(url):
    pass


# --- a sleeper at every call ---------------------------------------------------------------------


@pytest.mark.parametrize("by_cluster", [False, True])
def test_who_sleeps_anywhere_leaves_nothing_beside_the_output_of_another_model(
    sleeper, tmp_path, every, by_cluster
):
    told = {"rows": ROWS, "centers": CENTERS, "by_cluster": by_cluster}
    calls = every(6 if by_cluster else 4)

    def then(url):
        if MANIFEST not in files_of(url):
            follow(url, ROWS, OTHER, by_cluster=by_cluster)

    lost = 0
    for url, answer in sweep(sleeper, tmp_path, told, nothing, then, calls):
        found = publish.unseal(files_of(url)[MANIFEST])
        is_first = len(found["clusters"]) == len(CENTERS)
        centers = CENTERS if is_first else OTHER
        assert ("rows" in answer) == is_first, answer
        lost += not is_first
        check(url, ROWS, centers)
        assert write(url, ROWS, centers, by_cluster=by_cluster) == len(ROWS)
        assert check(url, ROWS, centers) == set()
    assert lost > 3


def test_who_sleeps_anywhere_while_it_adds_rows_loses_none_of_another_that_adds_some(
    sleeper, tmp_path, every
):
    told = {"rows": MORE, "centers": CENTERS, "append": True}

    def then(url):
        follow(url, OTHER_ROWS, CENTERS, append=True)

    def before(url):
        write(url, ROWS, CENTERS)

    outcomes = set()
    for url, answer in sweep(sleeper, tmp_path, told, before, then, every(6)):
        found = [run["rows"] for run in publish.unseal(files_of(url)[MANIFEST])["runs"]]
        parts = [{len(each): each for each in (ROWS, MORE, OTHER_ROWS)}[n] for n in found]
        assert found.count(len(OTHER_ROWS)) == 1
        assert "rows" not in answer or found.count(len(MORE)) == 1
        check(url, np.vstack(parts), CENTERS)
        assert write(url, MORE, CENTERS, append=True) == len(MORE)
        everything = parts if len(parts) == 3 else [*parts, MORE]
        assert check(url, np.vstack(everything), CENTERS) == set()
        outcomes.add(tuple(found))
    assert len(outcomes) == 3  # before the other, after it, and not at all


@pytest.mark.parametrize("append", [False, True])
def test_who_sleeps_anywhere_while_the_same_is_done_and_added_to_undoes_nothing(
    sleeper, tmp_path, every, append
):
    told = {"rows": MORE, "centers": CENTERS, "append": append}

    def before(url):
        if append:
            write(url, ROWS, CENTERS)

    def then(url):
        write(url, MORE, CENTERS, append=append)
        write(url, OTHER_ROWS, CENTERS, append=True)

    parts = [ROWS, MORE, OTHER_ROWS] if append else [MORE, OTHER_ROWS]
    for url, answer in sweep(sleeper, tmp_path, told, before, then, every(8)):
        check(url, np.vstack(parts), CENTERS)
        assert answer.get("rows") == len(MORE) or "Error" in answer["error"]
        assert write(url, OTHER_ROWS, CENTERS, append=True) == len(OTHER_ROWS)
        assert check(url, np.vstack(parts), CENTERS) == set()


def test_so_it_is_on_s3(sleeper, s3):
    """With every eighth call: each takes its time there."""
    options = s3.options
    lost = 0
    for at in itertools.count(5, 8):
        url = f"{s3.root}/{uuid.uuid4().hex}"
        sleeper.tell(url, ROWS, CENTERS, at=at, options=options)
        if not sleeper.falls_asleep():
            assert sleeper.hear()["rows"] == len(ROWS)
            break
        fs = s3.fs()
        for path in fs.find(url):
            if path.endswith(".parquet") or "/_unfinished" in path:
                fs.rm_file(path)
        if MANIFEST not in files_of(url, options):
            write(url, ROWS, OTHER, options)
            sleeper.wake()
            assert sleeper.hear()["error"] in ("LeaseLostError", "StoreError")
            lost += 1
            check(url, ROWS, OTHER, options)
            write(url, ROWS, OTHER, options)
            assert check(url, ROWS, OTHER, options) == set()
        else:
            sleeper.wake()
            sleeper.hear()
    assert lost >= 2


def test_what_a_sleeper_that_was_killed_has_left_the_next_run_removes(tmp_path):
    """It sleeps right after it put a part, and never looks again."""
    url, elsewhere = str(tmp_path / "out"), str(tmp_path / "elsewhere")
    write(elsewhere, ROWS, CENTERS)
    strays = {n: d for n, d in files_of(elsewhere).items() if n.endswith(".parquet")}
    foreign = f"part-{12 * 'a'}-00000000.parquet"
    write(url, ROWS, OTHER)
    for name, data in strays.items():
        (tmp_path / "out" / name).write_bytes(data)
    (tmp_path / "out" / foreign).write_bytes(min(strays.values()))  # not of the run of its name

    write(url, ROWS, OTHER)

    check(url, ROWS, OTHER, also=[foreign])
    assert foreign in files_of(url)


# --- a run that was followed at one point --------------------------------------------------------


def follower(place):
    """Take the lease of an output, as a run that has found the holder of the first one asleep."""
    (place / "_lease" / "00000002.json").write_text("{}")


AT_BEGIN, AT_END = (LabelledOutput, "snapshot"), (Manifests, "commit")


@pytest.mark.parametrize("is_followed", [False, True])
@pytest.mark.parametrize("point", [AT_BEGIN, AT_END], ids=["at its begin", "after its manifest"])
def test_who_was_followed_deletes_no_marker_of_the_follower(
    point, is_followed, tmp_path, monkeypatch
):
    """The follower has no parts yet, so its marker is one that a run removes."""
    (owner, name), marker = point, tmp_path / f"_unfinished-{12 * 'a'}.json"
    call, begin = getattr(owner, name), LeasedOutput.begin

    def followed(self, *about):
        monkeypatch.setattr(owner, name, call)
        done = call(self, *about) if point is AT_END else None
        marker.write_bytes(publish.seal({"of": {}}))
        if is_followed:
            follower(tmp_path)
        return done or call(self, *about)

    def beginning(self, *about):
        monkeypatch.setattr(owner, name, followed)
        return begin(self, *about)

    monkeypatch.setattr(LeasedOutput, "begin", beginning)
    with pytest.raises(LeaseLostError) if is_followed else nullcontext():
        write(str(tmp_path), ROWS, CENTERS)

    assert marker.exists() == is_followed


def deleter(place):
    """Delete the marker and the parts of a run by hand, as another run's refusal says one may."""
    clear(str(place))


@pytest.mark.parametrize("by", [follower, deleter])
def test_who_was_followed_before_its_end_publishes_no_manifest(by, tmp_path, monkeypatch):
    """The follower's own manifest must not fail, and a deleted run's names parts that are gone."""
    finish = LeasedOutput.finish

    def followed(self, *about):
        by(tmp_path)
        return finish(self, *about)

    monkeypatch.setattr(LeasedOutput, "finish", followed)
    with pytest.raises(LeaseLostError if by is follower else StoreError):
        write(str(tmp_path), ROWS, CENTERS)

    assert MANIFEST not in files_of(str(tmp_path))


def test_a_worker_whose_run_was_followed_writes_no_part(tmp_path, monkeypatch):
    """It would take the part back, but may be killed before."""
    url = str(tmp_path)
    monkeypatch.setattr(publish, "put", lambda *about: pytest.fail("it writes"))

    with pytest.raises(LeaseLostError):
        Parts(url, {}, stamp=64 * "a", home=url).put("part-0.parquet", b"rows")


def test_of_two_manifests_that_follow_the_same_one_the_second_is_refused(tmp_path):
    """Whoever slept between its look at the lease and its manifest finds the other one's there."""
    manifests = Manifests(str(tmp_path), {})
    write(str(tmp_path), ROWS, CENTERS)
    before = manifests.newest()
    write(str(tmp_path), MORE, CENTERS, append=True)
    first = manifests.newest()

    assert not manifests.commit({**first, "rows": 0}, before)
    assert not manifests.commit({**first, "rows": 0}, {})
    assert manifests.newest() == first


# --- many at once --------------------------------------------------------------------------------

ROUNDS = 6


@pytest.fixture(scope="module")
def both():
    with Sleeper() as one, Sleeper() as other:
        yield one, other


def at_once(both, url, *told):
    """Let both begin together; return what they say."""
    for each, how in zip(both, told, strict=True):
        each.tell(url, **how)
    return [each.hear() for each in both]


def is_refusal(answer):
    return answer.get("error") in ("BusyError", "StoreError") and "\n" not in answer["said"]


def test_of_two_models_at_once_one_is_written_and_the_other_is_refused(both, tmp_path):
    models = [CENTERS, OTHER]
    for number in range(ROUNDS):
        url = str(tmp_path / str(number))

        said = at_once(both, url, *({"rows": ROWS, "centers": model} for model in models))

        [winner] = [i for i, answer in enumerate(said) if "rows" in answer]
        assert is_refusal(said[1 - winner]), said
        assert check(url, ROWS, models[winner]) == set()


def test_of_the_same_twice_at_once_each_is_done_or_refused(both, tmp_path):
    for number in range(ROUNDS):
        url = str(tmp_path / str(number))

        said = at_once(both, url, *2 * [{"rows": ROWS, "centers": CENTERS}])

        assert any("rows" in answer for answer in said)
        assert all("rows" in answer or answer["error"] == "BusyError" for answer in said), said
        assert check(url, ROWS, CENTERS) == set()


def test_of_two_that_add_rows_at_once_none_is_lost(both, tmp_path):
    data = [MORE, OTHER_ROWS]
    for number in range(ROUNDS):
        url = str(tmp_path / str(number))
        write(url, ROWS, CENTERS)

        said = at_once(both, url, *({"rows": x, "centers": CENTERS, "append": True} for x in data))

        assert all("rows" in answer or is_refusal(answer) for answer in said), said
        added = [x for x, answer in zip(data, said, strict=True) if "rows" in answer]
        order = [run["rows"] for run in publish.unseal(files_of(url)[MANIFEST])["runs"]]
        assert sorted(order) == sorted(map(len, [ROWS, *added]))
        parts = [{len(x): x for x in (ROWS, *added)}[rows] for rows in order]
        assert check(url, np.vstack(parts), CENTERS) == set()
