"""Tests that a model directory passes on every kind of store."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, fields, replace

import fsspec
import numpy as np
import pytest

from ray_kmeans.algorithm.metric import Metric, unit_rows
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import (
    Accumulators,
    FitState,
    Iteration,
    Origin,
    Restart,
    Sample,
    Stop,
)
from ray_kmeans.algorithm.tree import Tree
from ray_kmeans.errors import (
    CheckpointError,
    ModelMismatchError,
    NotFittedError,
    StoreError,
)
from ray_kmeans.io import publish
from ray_kmeans.store import checkpoint_names
from ray_kmeans.store.model_dir import ModelDir

SQUARED_EUCLIDEAN, COSINE = Metric

OTHERS = [
    ".DS_Store",
    ".nfs00000000000a1b2c00000001",
    "._00000000-iteration-1.json",
    "._00000000-00000000-iteration-1.json",
    "notes.json",
    "0000-notes.partial",
    "00000000-notes.partial",
    "00000000-iteration-1.json.1a2b3c4d.partial",
    "00000000-iteration-1.json.bak",
    "00000000-iteration-x.json",
    "00000000-my-notes",
    "00000000-claim.txt",
    "00000000-claims",
    "0-iteration-1.json",
    "000000000-iteration-1.json",
    f"notes.{32 * '0'}.ray-kmeans-partial",
    f"00000000-iteration-1.json.{31 * '0'}.ray-kmeans-partial",
    f"00000000-iteration-1.json.{32 * '0'}.ray-kmeans-partial.txt",
    "00000000 holidays/photo.jpg",
    "00000000-00000000-photos/photo.jpg",
    "00000007-iteration-9.json/photo.jpg",
    "00000001-00000007-iteration-9.json/photo.jpg",
]
"""Names in a folder of checkpoints that this product gives to nothing."""
ABOVE = ["notes.json", ".DS_Store", "lease/.DS_Store", "lease/notes.json", "lease/old/x"]


def state_at(iteration, **more):
    """Return a state whose every value says which iteration it is of."""
    return FitState(
        centers=np.full((2, 3), iteration + 0.1, np.float32),
        counts=np.array([iteration, 2**40], np.int64),
        iteration=iteration,
        **more,
    )


def full_state():
    """Return a state whose every field differs from its default, with floats of all digits."""
    rng = np.random.default_rng(0)
    centers = unit_rows(np.vstack([rng.normal(size=(4, 3)), [[1e-45, -0.0, 3.4e38]]]))
    lines = [
        Iteration(
            i,
            2**40 + i,
            abs(rng.normal()) * 1e30,
            1 / 3,
            empty=i,
            digest=f"d{i}",
            smoothed=smoothed,
        )
        for i, smoothed in ((1, None), (2, 0.1), (3, 1e300))
    ]
    sums = rng.normal(size=(2, 5, 3)) * 10.0 ** rng.integers(-300, 300, (2, 5, 3))
    return FitState(
        centers=centers,
        counts=rng.integers(0, 2**62, 5),
        metric=COSINE,
        iteration=3,
        began_at=2,
        history=tuple(lines),
        stop=Stop.CYCLE,
        data_name="c0ffee",
        request="steps=7",
        data_since=1,
        accumulators=Accumulators(4, 3, sums),
        rows=RowSpec(("a", "b", "c"), '[["lang", "=", "en"]]', "drop", "w", (0.1, 1e300, -3.0)),
        origin=Origin("kmc2", 2**40, 7),
        restarts=(Restart(2**40, 0.1 + 0.2, 7, Stop.CYCLE), Restart(-1, 1e-300, 9, None)),
        sample=Sample(3, 2),
        tree=Tree((unit_rows(rng.normal(size=(2, 3))),), (np.array([0, 1, 1, 0, 1], np.int32),)),
    )


def assert_same(state, expected):
    if isinstance(expected, FitState):  # which is not compared by itself
        assert [line.smoothed for line in state.history] == [
            line.smoothed for line in expected.history
        ]
    for name, value in vars(expected).items():
        if isinstance(value, np.ndarray):
            found = getattr(state, name)
            assert (found.dtype, found.shape) == (value.dtype, value.shape)
            assert found.tobytes() == value.tobytes()
        elif isinstance(value, Tree):
            for own, of_expected in zip(
                (*state.tree.centers, *state.tree.parents),
                (*value.centers, *value.parents),
                strict=True,
            ):
                assert own.tobytes() == of_expected.tobytes()
        elif isinstance(value, Accumulators):
            assert_same(getattr(state, name), value)
        else:
            assert getattr(state, name) == value


class ModelDirContract:
    """Subclass it and give `place`; inherit what every store must keep."""

    @pytest.fixture
    def place(self):
        """Return a URL where nothing is yet, and its storage options."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, place):
        return ModelDir.at(*place, keep=3)

    @pytest.fixture
    def files(self, place):
        """Return what looks at the checkpoints behind the store's back."""
        fs, root = fsspec.core.url_to_fs(place[0], **place[1], use_listings_cache=False)
        return Files(fs, f"{root}/checkpoints")

    def test_an_empty_place_has_no_latest(self, store):
        assert store.latest() is None

    def test_latest_is_what_was_saved_last(self, store):
        for iteration in (0, 1, 2, 10):
            store.save(state_at(iteration))

            assert_same(store.latest(), state_at(iteration))

    @pytest.mark.parametrize("stepped", ["mini-batch", "full batch"])
    def test_every_field_comes_back_bit_for_bit(self, store, place, stepped):
        state = (
            full_state() if stepped == "mini-batch" else replace(full_state(), accumulators=None)
        )

        store.save(state)

        assert_same(ModelDir.at(*place, keep=3).latest(), state)

    def test_the_example_has_no_field_at_its_default(self):
        for field in fields(FitState):
            assert field.default is MISSING or getattr(full_state(), field.name) != field.default

    @pytest.mark.parametrize("stop", [None, *Stop])
    def test_the_reason_to_stop_comes_back(self, store, stop):
        store.save(state_at(1, stop=stop))

        assert store.latest().stop is stop

    def test_another_process_sees_what_was_saved(self, store):
        assert store.latest() is None  # from now on it is open, and pickle leaves that behind
        elsewhere = pickle.loads(pickle.dumps(store))
        assert elsewhere.latest() is None

        store.save(state_at(1))
        assert_same(elsewhere.latest(), state_at(1))
        elsewhere.save(state_at(2))
        assert_same(store.latest(), state_at(2))
        assert (elsewhere.url, elsewhere.keep) == (store.url, store.keep)

    def test_save_returns_the_path_of_the_manifest(self, store, files):
        path = store.save(state_at(7))

        assert path.endswith("00000000-00000000-iteration-7.json")
        assert files.manifests() == [path]

    def test_a_checkpoint_without_manifest_is_invisible(self, store, files):
        store.save(state_at(1))
        path = store.save(state_at(2))

        files.fs.rm_file(path)

        assert_same(store.latest(), state_at(1))

    @pytest.mark.parametrize("share", [0, 0.5, 0.99])
    def test_a_truncated_manifest_is_reported(self, store, files, share):
        store.save(state_at(1))
        path = store.save(state_at(2))

        content = files.fs.cat_file(path)
        files.fs.pipe_file(path, content[: int(len(content) * share)])

        self.check_reported(store, path, "the manifest is not what was written")

    @pytest.mark.parametrize(
        ("old", "new"), [(b'"iteration": 2', b'"iteration": 9'), (b"{", b"["), (b"sha", b"\xff")]
    )
    def test_an_edited_manifest_is_reported(self, store, files, old, new):
        store.save(state_at(1))
        path = store.save(state_at(2))

        content = files.fs.cat_file(path)
        assert old in content
        files.fs.pipe_file(path, content.replace(old, new))

        self.check_reported(store, path, "the manifest is not what was written")

    def test_a_manifest_of_another_format_is_reported(self, store, files):
        store.save(state_at(1))
        path = store.save(state_at(2))

        manifest = publish.unseal(files.fs.cat_file(path))
        files.fs.pipe_file(path, publish.seal({**manifest, "format": 1}))

        self.check_reported(store, path, "its format is 1, not 2")

    @pytest.mark.parametrize("name", ["centers.npy", "counts.npy", "history.npy", "sums.npy"])
    @pytest.mark.parametrize("damage", ["missing", "cut off", "one bit"])
    def test_damaged_data_are_reported(self, store, files, name, damage):
        store.save(state_at(1))
        path = store.save(state_at(2, accumulators=Accumulators(1, 0, np.ones((2, 2, 3)))))

        (blob,) = [blob for blob in files.blobs() if "00000001-" in blob and name in blob]
        content = files.fs.cat_file(blob)
        if damage == "missing":
            files.fs.rm_file(blob)
        elif damage == "cut off":
            files.fs.pipe_file(blob, content[:-1])
        else:
            files.fs.pipe_file(blob, content[:-1] + bytes([content[-1] ^ 1]))

        self.check_reported(store, path, name)

    def check_reported(self, store, path, problem):
        """The error names the file; once that is deleted as it says, the one before is found."""
        with pytest.raises(CheckpointError, match=problem) as caught:
            store.latest()
        with pytest.raises(CheckpointError):
            store.matching(2, SQUARED_EUCLIDEAN, 3)
        assert caught.value.path == path
        assert path in str(caught.value)
        store.fs.rm_file(path)
        assert_same(store.latest(), state_at(1))

    def test_only_the_newest_are_kept_with_their_data(self, store, files):
        paths = [store.save(state_at(iteration)) for iteration in range(7)]

        assert files.manifests() == paths[-3:]
        assert files.numbers() == [4, 5, 6]

    def test_what_a_killed_save_has_left_goes_with_the_old_ones(self, store, files, monkeypatch):
        store.save(state_at(0))
        with monkeypatch.context() as patch:
            patch.setattr(publish, "seal", lambda manifest: self.be_killed())
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    store.save(state_at(1))
        assert files.numbers() == [0, 1, 2]
        assert_same(store.latest(), state_at(0))

        for iteration in range(1, 5):
            store.save(state_at(iteration))

        assert files.numbers() == [4, 5, 6]

    def test_files_of_others_are_passed_over_and_stay(self, store, files, place):
        names = [*OTHERS, *(f"data/{name}" for name in OTHERS)]
        names += ["data/00000000-1a2b3c4d/notes.txt", "data/00000000-1a2b3c4d/.DS_Store"]
        names += [f"data/00000000-00000000-1a2b3c4d/{name}" for name in OTHERS]
        theirs = {f"{files.root}/{name}": name.encode() for name in names}
        theirs |= {f"{place[0].rpartition('://')[2]}/{name}": b"theirs" for name in ABOVE}
        for path, content in theirs.items():
            publish.put(store.fs, path, content)
        for name in ("centers.npy", f"sums.npy.{32 * '0'}.ray-kmeans-partial"):
            publish.put(store.fs, f"{files.root}/data/00000000-1a2b3c4d/{name}", b"ours")
        assert store.latest() is None
        assert store.checkpoints() == []

        for run in range(3):
            with store.take_lease("fit") as held:
                for iteration in range(4):
                    held.save(state_at(4 * run + iteration))

        assert_same(store.latest(), state_at(11))
        ours = {store.checkpoints()[n].rpartition("/")[2]: n for n in range(3)}
        for name, n in ours.items():
            assert_same(store.fitted(name), state_at(9 + n))
        for path, content in theirs.items():
            assert files.fs.cat_file(path) == content
        left = {path.removeprefix(f"{files.root}/") for path in files.all()} - set(names)
        assert {name for name in left if name.endswith(".json")} == set(ours)
        assert len(left) == 3 * (1 + 1 + 3)  # manifest, claim, three arrays

    @staticmethod
    def be_killed():
        raise KeyboardInterrupt

    @pytest.mark.parametrize("iteration", [5, 6])
    def test_a_writer_in_the_middle_of_another_leaves_one_winner_and_no_mixture(
        self, store, place, monkeypatch, iteration
    ):
        other = ModelDir.at(*place, keep=3)
        seal = publish.seal

        def meanwhile(manifest):
            monkeypatch.setattr(publish, "seal", seal)
            other.save(state_at(5))
            return seal(manifest)

        monkeypatch.setattr(publish, "seal", meanwhile)
        store.save(state_at(iteration, data_name="first"))

        assert publish.seal is seal
        assert_same(store.latest(), state_at(5))  # it began last, whoever ended last
        first, last = store.checkpoints()
        assert_same(store.fitted(first), state_at(iteration, data_name="first"))
        assert_same(store.fitted(last), state_at(5))

    def test_writers_at_once_lose_nothing_and_share_no_number(self, place):
        stores = [ModelDir.at(*place, keep=100) for _ in range(3)]
        rounds = range(4)

        def save(writer):
            return [
                stores[writer].save(state_at(writer, data_name=f"{writer} {n}")) for n in rounds
            ]

        with ThreadPoolExecutor(len(stores)) as threads:
            paths = list(threads.map(save, range(len(stores))))

        names = [path.rsplit("/", 1)[-1] for each in paths for path in each]
        assert len({name[:17] for name in names}) == len(names)
        for writer, each in enumerate(paths):
            for n, path in zip(rounds, each, strict=True):
                state = stores[0].fitted(path.rsplit("/", 1)[-1])
                assert_same(state, state_at(writer, data_name=f"{writer} {n}"))

    def test_a_manifest_is_never_replaced(self, store, place, monkeypatch):
        """Where a store lets both have a number, the second one hears of it."""
        ModelDir.at(*place, keep=3).save(state_at(5))
        claimed = checkpoint_names.Number(0, 0), "data/00000000-00000000-ffffffff"
        monkeypatch.setattr(ModelDir, "_claim", lambda self: claimed)

        with pytest.raises(StoreError, match=r"iteration-5.json' was saved by another run"):
            store.save(state_at(5, data_name="other"))

        assert_same(store.latest(), state_at(5))

    def test_a_checkpoint_that_is_deleted_while_it_is_read_makes_room_for_the_next(
        self, place, monkeypatch
    ):
        store, other = (ModelDir.at(*place, keep=1) for _ in range(2))
        store.save(state_at(1))
        unseal = publish.unseal

        def meanwhile(data):
            monkeypatch.setattr(publish, "unseal", unseal)
            other.save(state_at(2))
            return unseal(data)

        monkeypatch.setattr(publish, "unseal", meanwhile)

        assert_same(store.latest(), state_at(2))
        assert publish.unseal is unseal

    @pytest.mark.parametrize("damaged", [1, 2])
    def test_a_damaged_checkpoint_is_skipped_where_that_is_asked_for(
        self, store, place, files, caplog, damaged
    ):
        paths = [store.save(state_at(iteration)) for iteration in (1, 2, 3)]
        for path in paths[-damaged:]:
            files.fs.pipe_file(path, b"{}")

        found = ModelDir.at(*place, keep=3, skip_damaged=True).latest()

        assert_same(found, state_at(3 - damaged))
        assert len(caplog.records) == damaged
        for path, record in zip(paths[::-1], caplog.records, strict=False):
            assert f"passed over {path}: the manifest is not what was" in record.getMessage()
        with pytest.raises(CheckpointError):
            store.latest()

    def test_where_no_checkpoint_is_whole_nothing_begins_anew(self, place, files):
        store = ModelDir.at(*place, keep=3, skip_damaged=True)
        paths = [store.save(state_at(iteration)) for iteration in (1, 2)]
        for path in paths:
            files.fs.pipe_file(path, b"{}")

        with pytest.raises(CheckpointError, match=paths[-1]):
            store.latest()

    def test_a_save_after_a_damaged_one_is_the_newest(self, place, files):
        store = ModelDir.at(*place, keep=3, skip_damaged=True)
        files.fs.pipe_file(store.save(state_at(1)), b"{}")

        store.save(state_at(1))

        assert_same(ModelDir.at(*place, keep=3).latest(), state_at(1))

    @pytest.mark.parametrize(
        "name",
        [
            "../centers.npy",
            "data/../../centers.npy",
            "data/00000000-0/../centers.npy",
            "/etc/centers.npy",
            "data/00000000-0//centers.npy",
            "file:///data/00000000-0/centers.npy",
            "s3://bucket/centers.npy",
            "data/00000000-0/centers.npy\n",
            "",
        ],
    )
    def test_a_manifest_that_names_files_elsewhere_is_damaged(self, store, files, name):
        store.save(state_at(1))
        path = store.save(state_at(2))
        manifest = publish.unseal(files.fs.cat_file(path))
        described = manifest["files"].popitem()[1]
        manifest["files"][name] = described
        files.fs.pipe_file(path, publish.seal(manifest))

        self.check_reported(store, path, "is not the name of a file of a checkpoint")

    @pytest.mark.parametrize("damage", ["object", "no .npy"])
    def test_what_is_not_an_array_of_numbers_is_damaged(self, store, files, damage):
        store.save(state_at(1))
        path = store.save(state_at(2))
        (blob,) = [blob for blob in files.blobs() if "00000001-" in blob and "centers" in blob]
        content = io.BytesIO(b"no .npy")
        if damage == "object":
            np.save(content, np.array([[Exploding()]]), allow_pickle=True)
        manifest = publish.unseal(files.fs.cat_file(path))
        name = blob.rpartition("/checkpoints/")[2]
        manifest["files"][name]["sha256"] = publish.sha256(content.getvalue())
        files.fs.pipe_file(blob, content.getvalue())
        files.fs.pipe_file(path, publish.seal(manifest))

        self.check_reported(store, path, "it cannot be understood")
        assert Exploding.exploded == 0

    @pytest.mark.parametrize("missing", ["iteration", "files", "mini_batch"])
    def test_a_manifest_that_lacks_something_is_damaged(self, store, files, missing):
        store.save(state_at(1))
        path = store.save(state_at(2))
        manifest = publish.unseal(files.fs.cat_file(path))
        del manifest[missing]
        files.fs.pipe_file(path, publish.seal(manifest))

        self.check_reported(store, path, "it cannot be understood")

    def test_a_new_place_is_writable_and_nothing_is_left_there(self, store, files):
        store.check_writable()

        assert store.latest() is None
        assert files.all() == []

    @pytest.mark.parametrize(
        "asked", [(3, SQUARED_EUCLIDEAN, 3), (2, SQUARED_EUCLIDEAN, 4), (2, COSINE, 3)]
    )
    def test_another_model_is_refused_and_this_one_is_found(self, store, asked):
        assert store.matching(*asked) is None
        store.save(state_at(1))
        assert_same(store.matching(2, SQUARED_EUCLIDEAN, 3), state_at(1))

        found = "2 clusters of 3 features by squared_euclidean distance"
        with pytest.raises(ModelMismatchError, match=found) as caught:
            store.matching(*asked)

        k, metric, d = asked
        assert caught.value.asked == f"{k} clusters of {d} features by {metric} distance"
        assert store.url in str(caught.value)

    def test_a_model_is_found_before_the_number_of_features_is_known(self, store):
        store.save(state_at(1))

        assert_same(store.matching(2, SQUARED_EUCLIDEAN), state_at(1))
        for asked in ((3, SQUARED_EUCLIDEAN), (2, COSINE)):
            with pytest.raises(ModelMismatchError, match="{} clusters of 3 .* {}".format(*asked)):
                store.matching(*asked)

    def test_any_checkpoint_is_read_by_its_name_url_and_path(self, store):
        paths = [store.save(state_at(iteration)) for iteration in (1, 2, 3)]

        urls = [f"{store.url}/checkpoints/{path.rsplit('/', 1)[-1]}" for path in paths]
        assert store.checkpoints() == urls
        assert_same(store.fitted(), state_at(3))
        for iteration, path in enumerate(paths, start=1):
            name = path.rsplit("/", 1)[-1]
            for given in (name, f"{store.url}/checkpoints/{name}", path):
                assert_same(store.fitted(given), state_at(iteration))

    def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(self, store):
        with pytest.raises(NotFittedError, match=r"no model in .*Call fit first"):
            store.fitted()
        store.save(state_at(1))

        with pytest.raises(
            NotFittedError, match=r"'00000009-\S*' does not exist.*-iteration-1\.json"
        ):
            store.fitted("00000009-iteration-9.json")


class Exploding:
    """Says so when pickle makes it again."""

    exploded = 0

    def __reduce__(self):
        return (Exploding._explode, ())

    @classmethod
    def _explode(cls):
        cls.exploded += 1


class Files:
    """The files of a model directory, seen without its code."""

    def __init__(self, fs, root):
        self.fs, self.root = fs, root

    def all(self):
        self.fs.invalidate_cache()
        return sorted(self.fs.find(self.root)) if self.fs.exists(self.root) else []

    def manifests(self):
        return [path for path in self.all() if path.endswith(".json")]

    def blobs(self):
        return [path for path in self.all() if path.startswith(f"{self.root}/data/")]

    def numbers(self):
        """Return the numbers of the checkpoints that have data, or had begun to."""
        names = {blob.rpartition("/data/")[2].partition("/")[0] for blob in self.blobs()}
        return sorted({checkpoint_names.of_data(name).number for name in names})
