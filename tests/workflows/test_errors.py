"""Errors: the tree is as drawn, they cross processes unchanged, and they say what was found."""

from __future__ import annotations

import pickle
import textwrap

import pytest

from ray_kmeans import errors

EXAMPLES = [
    errors.RayKMeansError("something"),
    errors.ConfigError("steps=0 must be a whole number of at least 1."),
    errors.ModelMismatchError("s3://b/m", "3 clusters of 2 features by cosine distance", "5 of 2"),
    errors.BudgetError(2_000_000, 1_000_000, "7 rows x 3 float32 and 2 centers"),
    errors.DataError("the data have no rows."),
    errors.NoDataError("'s3://b/x' does not exist."),
    errors.NonFiniteError(
        (("row group 0 of a.parquet", 2, 7), ("row group 1 of a.parquet", 1_000, 8))
    ),
    errors.TooFewRowsError(1_234, 5_678),
    errors.NotFittedError("there is no model in 'm'."),
    errors.StoreError("'s3://b/m' cannot be written."),
    errors.BusyError("s3://b/m", "fit of process 12 on node-3", "0:01:40"),
    errors.LeaseLostError("s3://b/m", "fit of process 12 on node-3"),
    errors.CheckpointError("s3://b/m/00000007-iteration-9.json", "centers.npy is missing"),
    errors.DiskFullError("/m/centers.npy", 4_000_128, 65_536),
    errors.RequestError("info bucket/x failed after 8 attempts: OSError: Service Unavailable."),
    errors.WorkersLostError("worker 3 died 4 times in a row."),
    errors.NoRoomError("Ray's object store is full."),
    errors.RunStoppedError(),
    errors.ClusterError("no Ray head answers at node-1:6379."),
    errors.NoColumnError("keep_columns=['id'] are not in a.parquet: ['v']."),
]
NAMES = [type(error).__name__ for error in EXAMPLES]


def tree_of(cls, depth=0):
    foreign = [base.__name__ for base in cls.__bases__ if base.__module__ == "builtins"]
    foreign = [name for name in foreign if name != "Exception"]
    yield "    " * depth + cls.__name__ + (f" ({', '.join(foreign)})" if foreign else "")
    for child in cls.__subclasses__():
        yield from tree_of(child, depth + 1)


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    drawing = textwrap.dedent(errors.__doc__.split("\n\n")[2])

    assert drawing.splitlines() == list(tree_of(errors.RayKMeansError))


def test_every_class_has_an_example_here():
    ours = {name for name, value in vars(errors).items() if isinstance(value, type)}

    assert sorted(NAMES) == sorted(ours)


@pytest.mark.parametrize("error", EXAMPLES, ids=NAMES)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_an_error_survives_pickling(error, protocol):
    again = pickle.loads(pickle.dumps(error, protocol))

    assert (type(again), again.args, vars(again)) == (type(error), error.args, vars(error))
    assert str(again) == str(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=NAMES)
def test_the_message_names_every_value_it_was_given(error):
    message = str(error).replace(",", "")

    for value in vars(error).values() or error.args:
        for part in flat(value):
            assert str(part) in message


def flat(value):
    return (
        [part for inner in value for part in flat(inner)] if isinstance(value, tuple) else [value]
    )


@pytest.mark.parametrize("error", EXAMPLES[1:], ids=NAMES[1:])
def test_the_message_is_one_line_that_ends_with_a_full_stop(error):
    assert "\n" not in str(error)
    assert str(error).endswith(".")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (EXAMPLES[2], "Give another model_dir"),
        (EXAMPLES[3], r"num_workers.*num_clusters.*worker_memory_bytes"),
        (EXAMPLES[6], "Remove or fill these rows"),
        (EXAMPLES[7], "Lower num_clusters"),
        (EXAMPLES[10], "Wait until it ends, or end it; or give another place"),
        (EXAMPLES[11], "Let the other one go on; or run this again"),
        (EXAMPLES[12], r"Delete this file, or give .*skip_damaged_checkpoints=True"),
        (EXAMPLES[13], "Make room and run the same again"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_message_says_what_to_change(error, advice):
    with pytest.raises(type(error), match=advice):
        raise error


def test_rows_that_are_not_finite_are_counted_and_the_first_places_named():
    places = tuple((f"row group {group} of a.parquet", group + 1, 10 * group) for group in range(8))

    message = str(errors.NonFiniteError(places))

    assert message.startswith("36 rows ")
    assert "1 in row group 0 of a.parquet (the first is row 0)" in message
    assert "3 in row group 2 of a.parquet (the first is row 20)" in message
    assert "row group 5" not in message
    assert "and 3 more places" in message
