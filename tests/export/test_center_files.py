"""Centers in the files of other programs: bits, counts and metric come back, and what is damaged
is an error that costs no more memory than the file has bytes."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from ray_kmeans import KMeansClustering, RunConfig, cli, export_centers, import_centers, open_source
from ray_kmeans.algorithm.metric import Metric, project
from ray_kmeans.center_files import arrays, faiss_index, lance_ivf, vectorchord
from ray_kmeans.center_files.exported import ExportedCenters, Level
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.workflows.export import CENTERS
from ray_kmeans.workflows.import_centers import centers_of

HERE = RunConfig(num_workers=0, progress=False)
RNG = np.random.default_rng(5)
K, D = 7, 4
X = (RNG.normal(size=(K, D)) * 4)[RNG.integers(0, K, 400)] + RNG.normal(size=(400, D))
METRICS = ["squared_euclidean", "cosine"]
ENDINGS = {
    "parquet": "parquet",
    "npy": "npy",
    "npz": "npz",
    "safetensors": "safetensors",
    "faiss": "faiss",
    "faiss-flat": "index",
    "vectorchord": "copy",
    "vectorchord-parquet": "parquet",
}
"""An ending of a file of each format."""
TELLS_METRIC = ["parquet", "npz", "safetensors", "faiss", "faiss-flat", "vectorchord-parquet"]


def the_faiss():
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    faiss.omp_set_num_threads(1)  # its threads would wait for one another on a busy machine
    return faiss


def given(metric=Metric.SQUARED_EUCLIDEAN, k=K, levels=()):
    centers = project(RNG.normal(size=(k, D)).astype(np.float32), metric)
    return ExportedCenters(centers, np.arange(k) * 3, metric, levels)


def tree():
    """Return 7 centers below 4, of which one has no child, below 2."""
    low = Level(RNG.normal(size=(4, D)).astype(np.float32), np.array([3, 0, 0, 2, 3, 0, 2]))
    high = Level(RNG.normal(size=(2, D)).astype(np.float32), np.array([1, 0, 0, 1]))
    return given(levels=(low, high))


@pytest.fixture(scope="module", params=METRICS)
def km(request, tmp_path_factory):
    place = str(tmp_path_factory.mktemp("model") / request.param)
    how = {"distance_metric": request.param, "use_mini_batch": False, "config": HERE}
    return KMeansClustering(K, place, **how).fit(X, max_steps=3)


def metric_of(km):
    return km.get_params()["distance_metric"]


def exported(km, place, file_format, *more):
    cli.main(["export", km.model_dir, str(place), "--format", file_format, *more])
    return place


# --- every format ------------------------------------------------------------------------------


def test_every_format_of_centers_is_in_this_test():
    assert set(ENDINGS) == set(CENTERS)


@pytest.mark.parametrize("file_format", ENDINGS)
def test_the_bits_of_the_centers_come_back(km, tmp_path, file_format):
    place = exported(km, tmp_path / f"c.{ENDINGS[file_format]}", file_format)

    back = import_centers(place, str(tmp_path / "m"), distance_metric=metric_of(km), config=HERE)
    start = KMeansClustering(
        K, str(tmp_path / "f"), centers_of(place), distance_metric=metric_of(km), config=HERE
    )

    assert centers_of(str(place)).centers.tobytes() == km.clusters().tobytes()
    np.testing.assert_allclose(back.clusters(), km.clusters(), rtol=2e-7)  # cosine: scaled again
    assert start.fit(X, steps=1).counts().sum() > 0


@pytest.mark.parametrize("file_format", TELLS_METRIC)
def test_a_file_that_tells_another_metric_is_refused(km, tmp_path, file_format):
    place = exported(km, tmp_path / f"c.{ENDINGS[file_format]}", file_format)
    [other] = {*METRICS} - {metric_of(km)}

    with pytest.raises(ConfigError, match=f"distance_metric='{other}'. Give '{metric_of(km)}'"):
        import_centers(place, str(tmp_path / "m"), distance_metric=other, config=HERE)


def test_arrays_and_tables_have_counts_and_metric_for_their_own_readers(km):
    record = ExportedCenters(km.clusters(), km.counts(), Metric(metric_of(km)))

    table = pq.read_table(io.BytesIO(arrays.parquet_of(record)))
    archive = np.load(io.BytesIO(arrays.npz_of(record)), allow_pickle=False)
    content = arrays.safetensors_of(record)
    tensors = safetensors.numpy.load(content)

    assert table.column_names == ["cluster", "center", "count"]
    for counts in (table["count"].to_numpy(), archive["counts"], tensors["counts"]):
        np.testing.assert_array_equal(counts, km.counts())
        assert counts.dtype == km.counts().dtype
    for centers in (np.stack(table["center"].to_numpy()), archive["centers"], tensors["centers"]):
        assert centers.tobytes() == km.clusters().tobytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    told = table.schema.metadata[b"distance_metric"].decode()
    assert {told, str(archive["distance_metric"]), metadata["distance_metric"]} == {metric_of(km)}


def test_shifted_centers_are_float64_or_refused(tmp_path):
    source = open_source(X + 1e9, center=True)
    km = KMeansClustering(3, str(tmp_path / "m"), use_mini_batch=False, config=HERE)
    km.fit(source, max_steps=2)

    for file_format in ("npz", "safetensors"):
        place = exported(km, tmp_path / f"c.{file_format}", file_format)
        arrays_there = (
            np.load(place) if file_format == "npz" else safetensors.numpy.load_file(place)
        )
        np.testing.assert_array_equal(arrays_there["centers"], km.clusters())
    for file_format in ("faiss", "vectorchord", "lance"):
        with pytest.raises(SystemExit):
            exported(km, tmp_path / "refused", file_format)
    assert not (tmp_path / "refused").exists()


# --- trees -------------------------------------------------------------------------------------


def ancestors(record, leaf):
    """Return the centers above a cluster, by walking the levels one at a time."""
    at, found = leaf, []
    for level in record.levels:
        at = level.parents[at]
        found.append(level.centers[at].tolist())
    return found


def test_the_nodes_of_a_tree_have_the_parents_and_counts_that_a_walk_finds():
    record = tree()
    nodes = record.nodes

    assert nodes.levels.tolist() == [0] * 7 + [1] * 4 + [2] * 2
    for leaf in range(K):
        walked, at = [], nodes.parents[leaf]
        while at >= 0:
            walked.append(nodes.centers[at].tolist())
            at = nodes.parents[at]
        assert walked == ancestors(record, leaf)
    for number in range(K, len(nodes.centers)):
        below = nodes.counts[nodes.parents == number].sum()
        assert nodes.counts[number] == below


def test_a_tree_in_parquet_npz_and_safetensors_is_read_by_its_clusters(tmp_path):
    record = tree()
    for file_format in ("parquet", "npz", "safetensors", "vectorchord", "vectorchord-parquet"):
        place = tmp_path / f"c-{file_format}.{ENDINGS[file_format]}"
        place.write_bytes(CENTERS[file_format](record))

        assert centers_of(place).centers.tobytes() == record.centers.tobytes(), file_format

    table = pq.read_table(tmp_path / "c-parquet.parquet")
    assert table["parent"].to_pylist()[:7] == [10, 7, 7, 9, 10, 7, 9]
    assert table["level"].to_pylist() == record.nodes.levels.tolist()
    archive = np.load(tmp_path / "c-npz.npz")
    np.testing.assert_array_equal(archive["centers_2"], record.levels[1].centers)
    np.testing.assert_array_equal(archive["parents_1"], record.levels[0].parents)


def test_the_tree_of_a_fit_is_exported_with_its_parents(tmp_path):
    how = {"use_mini_batch": False, "levels": (3, 4), "config": HERE}
    km = KMeansClustering(12, str(tmp_path / "m"), **how).fit(X, max_steps=3)

    [upper], [parents] = km.tree().centers, km.tree().parents
    level = Level(upper, parents)
    record = ExportedCenters(km.clusters(), km.counts(), Metric.SQUARED_EUCLIDEAN, (level,))
    table = pq.read_table(exported(km, tmp_path / "c.parquet", "parquet"))
    place = exported(km, tmp_path / "c.copy", "vectorchord")

    assert table["parent"].to_pylist()[:12] == [12 + each for each in parents]
    assert np.stack(table["center"].to_numpy()[12:]).tolist() == upper.tolist()
    assert read_copy(place.read_bytes()) == read_copy(vectorchord.copy_of(record))
    assert centers_of(place).centers.tobytes() == km.clusters().tobytes()


# --- faiss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_an_index_file_has_the_bytes_that_faiss_writes(metric):
    faiss = the_faiss()
    record = given(Metric(metric))
    kind = faiss.METRIC_L2 if metric == "squared_euclidean" else faiss.METRIC_INNER_PRODUCT
    flat = faiss.IndexFlatL2(D) if kind == faiss.METRIC_L2 else faiss.IndexFlatIP(D)
    flat.add(record.centers)
    lists = faiss.IndexIVFFlat(flat, D, K, kind)
    lists.train(record.centers)

    assert faiss_index.flat_index_of(record) == faiss.serialize_index(flat).tobytes()
    assert faiss_index.inverted_index_of(record) == faiss.serialize_index(lists).tobytes()


def test_faiss_adds_rows_to_the_lists_that_we_label_and_finds_the_nearest(km, tmp_path):
    faiss = the_faiss()
    place = exported(km, tmp_path / "c.faiss", "faiss")
    rows = project(X.astype(np.float32), Metric(metric_of(km)))

    index = faiss.read_index(str(place))
    assert (index.is_trained, index.ntotal, index.nlist) == (True, 0, K)
    index.add(rows)

    labels = list(km.predict_cluster_idx(X))
    for number in range(K):
        size = index.invlists.list_size(number)
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
        assert sorted(ids.tolist()) == [row for row, label in enumerate(labels) if label == number]
    index.nprobe = K
    _, found = index.search(rows[:20], 3)
    for row, ids in zip(rows[:20].astype(np.float64), found, strict=True):
        distances = ((rows - row) ** 2).sum(axis=1)  # of unit rows: in the order of the cosine
        assert set(ids) == set(np.argsort(distances)[:3])


FACTORY = [
    *("Flat", "IVF4,Flat", "IVF4,PQ2x4", "IVF4,SQ8", "IVF4,PQ2x4fs", "IVF4_HNSW8,Flat"),
    *("IDMap,IVF4,Flat", "IDMap2,IVF4,Flat", "IVF4,PQ2x4,RFlat", "IVF4,FlatDedup", "HNSW8"),
    *("IVF4,RaBitQ", "IVF4,ITQ,SH", "IVF4,RQ2x4"),
]
"""Kinds of indexes that keep centers as they are, as faiss names them."""


@pytest.mark.parametrize("kind", FACTORY)
def test_a_file_of_any_kind_has_the_centers_that_faiss_finds_in_it(kind):
    faiss = the_faiss()
    rows = X.astype(np.float32)
    for number, metric in ((faiss.METRIC_L2, METRICS[0]), (faiss.METRIC_INNER_PRODUCT, METRICS[1])):
        index = faiss.index_factory(D, kind, number)
        index.train(rows)
        if "IDMap" in kind:
            index.add_with_ids(rows, np.arange(len(rows)))
        else:
            index.add(rows)
        content = faiss.serialize_index(index).tobytes()

        centers, found = faiss_index.centers_in_file(io.BytesIO(content), len(content), "it")

        lists = faiss.try_extract_index_ivf(index)
        quantizer = faiss.downcast_index(lists.quantizer) if lists else index
        assert centers.tobytes() == quantizer.reconstruct_n(0, quantizer.ntotal).tobytes()
        assert str(found) == metric


def test_of_a_populated_index_only_the_beginning_is_read(tmp_path):
    content = faiss_index.inverted_index_of(given())

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            data = super().read(size)
            self.taken += len(data)
            return data

    handle = Counted(content + bytes(10**6))
    faiss_index.centers_in_file(handle, 10**6 + len(content), "it")
    assert handle.taken < len(content)


def refusal(content):
    with pytest.raises(ConfigError) as caught:
        faiss_index.centers_in_file(io.BytesIO(content), len(content), "it")
    return str(caught.value)


def test_a_damaged_or_hostile_index_is_refused_within_its_own_size():
    flat = faiss_index.flat_index_of(given())
    lists = faiss_index.inverted_index_of(given())
    end = lists.index(b"IxF2") + len(flat)
    header = flat[:37]
    huge = struct.pack("<iq16xBi", 2**31 - 1, 2**62, 1, 1)
    nested = (b"IxMp" + header[4:]) * 9 + flat
    graph = b"IHNf" + header[4:] + struct.pack("<Q", 2**61) + flat

    tracemalloc.start()
    for length in range(len(flat)):
        assert "it is cut off" in refusal(flat[:length]).lower()
    for length in range(end):
        assert "cut off" in refusal(lists[:length])
    assert "numbers for" in refusal(b"IxF2" + huge + struct.pack("<Q", 2**63))
    product = ((2**31 - 1) * 2**62) % 2**64
    assert "numbers for" in refusal(b"IxF2" + huge + struct.pack("<Q", product))
    assert "cut off" in refusal(graph)
    assert "nest too deep" in refusal(nested)
    assert "transforms vectors" in refusal(b"IxPT" + header[4:])
    assert "b'IxPq' with 7 vectors" in refusal(b"IxPq" + flat[4:])
    assert "neither by L2" in refusal(b"IxFl" + header[4:33] + struct.pack("<i", 4))
    assert "with 0 vectors" in refusal(b"IxF2" + struct.pack("<iq16xBiQ", D, 0, 1, 1, 0))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# --- VectorChord -------------------------------------------------------------------------------


def read_copy(content):
    """Read COPY's binary format as PostgreSQL documents it, one field at a time."""
    stream = io.BytesIO(content)
    assert stream.read(11) == b"PGCOPY\n\xff\r\n\0"
    flags, extension = struct.unpack(">ii", stream.read(8))
    assert (flags, extension) == (0, 0)
    rows = []
    while (count := struct.unpack(">h", stream.read(2))[0]) != -1:
        assert count == 3
        fields = []
        for _ in range(count):
            (length,) = struct.unpack(">i", stream.read(4))
            fields.append(None if length == -1 else stream.read(length))
        number, parent, vector = fields
        d, unused = struct.unpack(">hh", vector[:4])
        assert unused == 0
        values = struct.unpack(f">{d}f", vector[4:])
        rows.append(
            (
                struct.unpack(">i", number)[0],
                None if parent is None else struct.unpack(">i", parent)[0],
                list(values),
            )
        )
    assert stream.read() == b""
    return sorted(rows, key=lambda row: row[0])


@pytest.mark.parametrize("record", [given(), given(k=1), tree()], ids=["flat", "one", "tree"])
def test_the_table_of_vectorchord_is_one_that_it_accepts(record):
    rows = read_copy(vectorchord.copy_of(record))
    table = pq.read_table(io.BytesIO(vectorchord.table_of(record)))

    assert table.schema.field("id").type == table.schema.field("parent").type == pa.int32()
    columns = (table["id"].to_pylist(), table["parent"].to_pylist(), table["vector"].to_pylist())
    assert list(zip(*columns, strict=True)) == rows
    assert [row[2] for row in rows[: len(record.centers)]] == record.centers.tolist()
    parents = {number: parent for number, parent, _ in rows}
    if set(parents.values()) == {None}:
        assert len(rows) >= 2  # VectorChord puts a root above two or more
        return
    [root] = [number for number, parent in parents.items() if parent is None]
    leaves = set(parents) - set(parents.values())
    assert leaves == set(range(len(record.centers)))
    depths = set()
    for leaf in leaves:
        at, above = leaf, []
        while at != root:
            at = parents[at]
            above.append(rows[at][2])
        depths.add(len(above))
        assert above[: len(record.levels)] == ancestors(record, leaf)
    assert len(depths) == 1


def test_a_damaged_file_of_copy_is_refused(tmp_path):
    content = vectorchord.copy_of(tree())
    (tmp_path / "c.copy").write_bytes(content)
    assert len(centers_of(tmp_path / "c.copy").centers) == K

    wrong = [content[:length] for length in range(11, len(content))]
    wrong += [content + b"\0", content[:11] + b"\0\1" + content[13:]]
    wrong += [content[:21] + b"\x7f\xff\xff\xff" + content[25:]]  # the bytes of the first id
    for number, damaged in enumerate(wrong):
        with pytest.raises(DataError, match=r"COPY, but not of rows|too early|cut off"):
            vectorchord.rows_in_copy(damaged, f"number {number}")


def test_a_table_of_nodes_must_have_whole_and_different_ids(tmp_path):
    vector = arrays.vectors(given().centers[:3])
    wrong = {
        "a number twice": {"id": [1, 1, 2], "parent": [None, None, 1], "vector": vector},
        "must hold whole numbers": {"id": ["a", "b", "c"], "parent": [1, 2, 2], "vector": vector},
    }
    for said, columns in wrong.items():
        pq.write_table(pa.table(columns), tmp_path / "c.parquet")
        with pytest.raises(DataError, match=said):
            centers_of(tmp_path / "c.parquet")


# --- files that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c.faiss", "c.index"])
def test_what_is_no_index_is_told_by_its_first_bytes(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>")

    with pytest.raises(ConfigError, match=r"is no index of faiss: it begins with b'<html>'"):
        centers_of(tmp_path / name)


def test_a_metric_that_is_no_metric_is_passed_over(tmp_path):
    for metric in ("manhattan", "x" * 5000):
        np.savez(tmp_path / "c.npz", centers=given().centers, distance_metric=np.array(metric))
        assert centers_of(tmp_path / "c.npz").metric is None


# --- Lance -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(km, tmp_path_factory):
    """A Lance data set with deleted rows in four fragments, labelled with its row ids kept."""
    lance = pytest.importorskip("lance", reason="pylance is not installed")
    place = tmp_path_factory.mktemp("lance")
    rows = arrays.vectors(X.astype(np.float32))
    table = pa.table({"id": np.arange(len(X)), "v": rows})
    data = lance.write_dataset(table, place / "x.lance", max_rows_per_file=100)
    data.delete("id % 9 = 4")
    words = [str(place / "x.lance"), km.model_dir, str(place / "labelled"), "--columns", "v"]
    cli.main(["predict", *words, "--keep-columns", "_rowid", "id", "--num-workers", "0"])
    return lance.dataset(place / "x.lance"), place / "labelled"


def test_lance_builds_its_index_with_our_partitions_and_finds_the_nearest(km, labelled, tmp_path):
    data, labels = labelled
    place = exported(km, tmp_path / "ivf", "lance", "--labels", str(labels))

    from lance.indices import IvfModel

    model = IvfModel.load(str(place / "ivf.lance"))
    metric = {"squared_euclidean": "l2", "cosine": "cosine"}[metric_of(km)]
    assert model.distance_type == metric
    assert np.stack(model.centroids.to_numpy(False)).tobytes() == km.clusters().tobytes()
    index = data.create_index(
        "v",
        "IVF_FLAT",
        metric=metric,
        replace=True,
        ivf_centroids=model.centroids,
        num_partitions=K,
        precomputed_partition_dataset=str(place / "partitions.lance"),
    )

    counts = pq.read_table(labels)["cluster_idx"].to_numpy()
    partitions = index.stats.index_stats("v_idx")["indices"][0]["partitions"]
    assert [each["size"] for each in partitions] == np.bincount(counts, minlength=K).tolist()
    table = data.to_table(columns=["id", "v"])
    rows = project(np.stack(table["v"].to_numpy()), Metric(metric_of(km))).astype(np.float64)
    for row in (0, 17, 250):
        near = {"column": "v", "q": table["v"][row].values.to_numpy(), "k": 3, "nprobes": K}
        found = index.to_table(columns=["id"], nearest=near)["id"].to_pylist()
        nearest = np.argsort(((rows - rows[row]) ** 2).sum(axis=1))[:3]
        assert set(found) == set(table["id"].to_numpy()[nearest])


def test_the_row_ids_of_a_labelled_output_are_those_of_lance(labelled):
    data, labels = labelled
    kept = pq.read_table(labels).sort_by("id")
    expected = data.to_table(columns=["id"], with_row_id=True).sort_by("id")

    assert kept["_rowid"].to_pylist() == expected["_rowid"].to_pylist()


def test_no_row_is_made_of_row_ids(tmp_path):
    lance = pytest.importorskip("lance", reason="pylance is not installed")
    data = lance.write_dataset(pa.table({"a": [0.5, 1.5], "b": [2.5, 3.5]}), tmp_path / "x.lance")

    source = open_source(data)

    assert source.describe().features == 2
    [block] = source.describe().blocks
    assert source.columns_of(block, ["_rowid"]).to_pydict() == {"_rowid": [0, 1]}


def test_the_model_of_lance_is_imported_and_a_damaged_one_refused(km, tmp_path):
    pytest.importorskip("lance", reason="pylance is not installed")
    place = exported(km, tmp_path / "ivf", "lance")

    assert [path.name for path in Path(place).iterdir()] == ["ivf.lance"]
    found = centers_of(place / "ivf.lance", metric=Metric(metric_of(km)))
    assert found.centers.tobytes() == km.clusters().tobytes()
    assert found.metric == metric_of(km)
    content = (place / "ivf.lance").read_bytes()
    (tmp_path / "cut.lance").write_bytes(content[:40] + content[-4:])
    with pytest.raises(DataError, match="cannot be read as an IVF model of Lance"):
        centers_of(tmp_path / "cut.lance")


def test_rows_without_a_label_are_in_no_partition(tmp_path):
    lance = pytest.importorskip("lance", reason="pylance is not installed")
    parts = [(np.arange(5) * 7, np.array([2, -1, 0, -1, 1])), (np.array([2**40]), np.array([3]))]

    written = lance_ivf.write_partitions(iter(parts), str(tmp_path / "p.lance"), {})

    data = lance.dataset(tmp_path / "p.lance")
    assert data.to_table().to_pydict() == {"row_id": [0, 14, 28, 2**40], "partition": [2, 0, 1, 3]}
    assert (written, len(data.get_fragments())) == (4, 1)


def test_labels_that_do_not_fit_are_refused_before_anything_is_written(
    km, labelled, tmp_path, capsys
):
    _, labels = labelled
    other = import_centers(
        km.clusters()[::-1], str(tmp_path / "m"), distance_metric=metric_of(km), config=HERE
    )
    lance = ["lance", "--labels", str(labels)]
    (tmp_path / "none").mkdir()
    wrong = [
        (other, lance, "by a model with other centers"),
        (km, [*lance, "--row-ids", "rowid"], "no column 'rowid'; it has _rowid, id, row"),
        (km, [*lance, "--row-ids", "distance"], "holds float"),
        (km, ["lance", "--labels", str(tmp_path / "none")], "holds no complete labelled output"),
        (km, ["npy", "--labels", str(labels)], "has no meaning for format='npy'"),
    ]
    for model, flags, said in wrong:
        with pytest.raises(SystemExit):
            exported(model, tmp_path / "out", *flags)
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    with pytest.raises(ConfigError, match="memory that Lance, which writes itself, does not see"):
        export_centers(km.model_dir, "memory://out", "lance")
    exported(km, tmp_path / "out", *lance)
    with pytest.raises(SystemExit):
        exported(km, tmp_path / "out", *lance)
    assert "holds partitions.lance already, which is not replaced" in capsys.readouterr().err
