"""A run that slept, wherever that was in a save, never hides what the run after it has saved."""

from __future__ import annotations

import os
import shutil
import uuid

import pytest

from ray_kmeans.errors import LeaseLostError
from ray_kmeans.io import publish
from ray_kmeans.store.model_dir import ModelDir
from tests.support.saving import QUICK, SavingSleeper
from tests.support.store_contract import assert_same, state_at

POINTS = {
    "before the lease is looked at": ("Lease.check", 1),
    "between the look and the claim": ("ModelDir._claim", 1),
    "after the claim": ("ModelDir._claim>", 1),
    "before the first array": ("publish.put", 1),
    "between the arrays": ("publish.put>", 2),
    "before the manifest": ("publish.seal", 1),
    "after the manifest": ("ModelDir._check_newest", 1),
    "before the second look": ("Lease.check", 2),
    "after the second look": ("Lease.check>", 2),
    "before old ones are deleted": ("ModelDir._delete_old", 1),
    "between old manifests and their arrays": ("fs.rm_file>", 1),
    "before old arrays are deleted": ("fs.rm", 1),
}


@pytest.fixture
def place(request, tmp_path):
    """Give a place that other processes see."""
    if request.param == "local":
        return publish.Place(str(tmp_path / "model"), {})
    store = request.getfixturevalue("s3")
    return publish.Place(f"{store.root}/{uuid.uuid4().hex}", store.options)


def go_on_and_finish(store):
    """Be the run that takes over: it goes on from the newest state, and finishes."""
    with store.take_lease("fit", QUICK) as held:
        assert held.latest().iteration in (2, 3, 4)
        for iteration in range(3, 11):
            held.save(state_at(iteration, data_name="finished"))


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


ANYWHERE = [("local", 1, point) for point in POINTS]
OLD_ONES_STAY = [("local", 3, point) for point in POINTS if "old" in point or "second" in point]
ON_S3 = ["between the look and the claim", "after the claim", "before the manifest"]
ON_S3 += ["after the second look", "between old manifests and their arrays"]


@pytest.mark.long(kind="fencing")
@pytest.mark.parametrize(
    ("place", "keep", "point"),
    [*ANYWHERE, *OLD_ONES_STAY, *(("s3", 1, point) for point in ON_S3)],
    indirect=["place"],
)
def test_what_a_sleeper_saves_is_never_the_newest(place, point, keep):
    store = ModelDir.at(place.url, place.storage_options, 3)
    with SavingSleeper(place, keep, *POINTS[point]) as sleeper:
        go_on_and_finish(store)
        before = store.checkpoints()
        said = sleeper.wake()

    assert said.startswith("LeaseLostError")
    assert f"process {os.getpid()} on" in said
    assert_same(store.latest(), state_at(10, data_name="finished"))
    assert store.checkpoints() == before
    for path in before:  # all are whole
        assert store.fitted(path).data_name == "finished"


@pytest.mark.parametrize("point", ["between the look and the claim", "before the manifest"])
def test_so_it_is_where_the_lease_was_deleted_by_hand(tmp_path, point):
    place = publish.Place(str(tmp_path / "model"), {})
    store = ModelDir.at(place.url, {}, 3)
    with SavingSleeper(place, 3, *POINTS[point]) as sleeper:
        go_on_and_finish(store)
        shutil.rmtree(tmp_path / "model" / "lease")
        said = sleeper.wake()
    assert said.startswith("LeaseLostError")
    assert_same(store.latest(), state_at(10, data_name="finished"))

    with store.take_lease("fit", QUICK) as held:
        held.save(state_at(11))
    assert_same(store.latest(), state_at(11))


@pytest.mark.parametrize("epochs", [0, 3], ids=["of the same epoch", "of a lower epoch"])
@pytest.mark.parametrize(
    "point",
    ["before the lease is looked at", "between the look and the claim", "before the manifest"],
)
def test_so_it_is_where_all_was_deleted_and_another_run_began_anew(tmp_path, point, epochs):
    """Its numbers begin anew as well, and it has let go of its lease, so that has no file."""
    place = publish.Place(str(tmp_path / "model"), {})
    store = ModelDir.at(place.url, {}, 3)
    for _ in range(epochs):
        with store.take_lease("fit", QUICK) as held:
            held.save(state_at(0))
    with SavingSleeper(place, 3, *POINTS[point]) as sleeper:
        shutil.rmtree(place.url)
        with store.take_lease("fit", QUICK) as held:
            for iteration in range(11):
                held.save(state_at(iteration, data_name="finished"))
        before, files = store.checkpoints(), files_below(tmp_path / "model/checkpoints")
        said = sleeper.wake()

    assert said.startswith("LeaseLostError")
    assert_same(store.latest(), state_at(10, data_name="finished"))
    assert store.checkpoints() == before
    if point != "before the manifest":  # it looks before it writes, for it may be killed halfway
        assert files_below(tmp_path / "model/checkpoints") == files


def test_a_lease_never_has_an_epoch_of_a_checkpoint_that_is_there(tmp_path):
    store = ModelDir.at(str(tmp_path), {}, 5)
    epochs = []
    for iteration in range(4):
        with store.take_lease("fit", QUICK) as held:
            epochs.append(int(held.save(state_at(iteration)).rpartition("/")[2][:8]))
        assert_same(store.latest(), state_at(iteration))
        shutil.rmtree(tmp_path / "lease", ignore_errors=True)

    assert epochs == [1, 2, 3, 4]


def test_a_claim_without_a_checkpoint_counts_too(tmp_path):
    """Who has it may sleep; the lease that it holds was deleted by hand."""
    claim = tmp_path / "checkpoints/data/00000006-00000002-claim"
    claim.parent.mkdir(parents=True)
    claim.write_text("")

    with ModelDir.at(str(tmp_path), {}, 5).take_lease("fit", QUICK) as held:
        assert held.save(state_at(1)).endswith("/00000007-00000003-iteration-1.json")


def test_checkpoints_of_versions_without_epochs_are_older_than_all_others(tmp_path):
    store = ModelDir.at(str(tmp_path), {}, 5)
    store.save(state_at(1))
    [new] = (tmp_path / "checkpoints").glob("*.json")
    old = new.with_name("00000099-iteration-1.json")
    new.rename(old)

    with store.take_lease("fit", QUICK) as held:
        assert_same(held.latest(), state_at(1))
        held.save(state_at(2))

    assert [path.rpartition("/")[2] for path in store.checkpoints()] == [
        old.name,
        "00000001-00000100-iteration-2.json",
    ]
    assert_same(store.latest(), state_at(2))
    assert_same(store.fitted(old.name), state_at(1))


def test_numbers_of_more_digits_are_in_order(tmp_path):
    store = ModelDir.at(str(tmp_path), {}, 5)
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "99999999.json").write_text('{"released": true}')

    for iteration in (1, 2):
        with store.take_lease("fit", QUICK) as held:
            held.save(state_at(iteration))

    assert_same(store.latest(), state_at(2))
    first, last = (path.rpartition("/")[2] for path in store.checkpoints())
    assert first.startswith("100000000-00000000-")
    assert last.startswith("100000001-00000001-")


def test_who_is_followed_while_it_saves_hears_of_it_though_the_other_one_has_saved_nothing(
    tmp_path, monkeypatch
):
    """What it has published stays then: the other one may have begun from it."""
    store, other = (ModelDir.at(str(tmp_path), {}, 5) for _ in range(2))
    seal = publish.seal
    with store.take_lease("fit", QUICK) as held:

        def followed(manifest):
            monkeypatch.setattr(publish, "seal", seal)
            (tmp_path / "lease" / "00000002.json").write_text("{}")
            return seal(manifest)

        monkeypatch.setattr(publish, "seal", followed)
        with pytest.raises(LeaseLostError):
            held.save(state_at(1))

    assert_same(other.latest(), state_at(1))
