"""The public names are documented by numpydoc's rules, as their signatures say."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import get_args

import pytest

import ray_kmeans
from ray_kmeans import config
from ray_kmeans.algorithm import metric
from ray_kmeans.engine.seeding import choose

OF_CALLS = (
    *("Agreement", "Candidate", "ClusterDrift", "Drift", "Evaluation", "LabelCounts"),
    *("ModelFnOps", "Quality"),
)
"""What calls return."""
RECORDS = [getattr(ray_kmeans, name) for name in OF_CALLS]
RECORDS_OF_THE_ENGINE = ("Block", "FitState", "Iteration", "Layout", "Restart")
"""Users read their fields; their methods are for the fit."""
FUNCTIONS = [
    (name, getattr(ray_kmeans, name))
    for name in ray_kmeans.PUBLIC
    if inspect.isfunction(getattr(ray_kmeans, name))
]
CLASSES = [
    (name, kind)
    for name in ray_kmeans.PUBLIC
    if inspect.isclass(kind := getattr(ray_kmeans, name)) and name not in RECORDS_OF_THE_ENGINE
]
WITH_ARGUMENTS = [
    (name, kind)
    for name, kind in CLASSES
    if not issubclass(kind, Enum) and kind not in RECORDS and kind is not ray_kmeans.Source
]
"""Classes that users call."""


def methods_of(kind):
    """Return the public methods of a class, inherited ones included, and `__call__`."""
    own = [
        (name, method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name == "__call__"
    ]
    return [(f"{kind.__name__}.{name}", method) for name, method in own]


def properties_of(kind):
    return [
        (f"{kind.__name__}.{name}", member)
        for name, member in inspect.getmembers(kind, lambda each: isinstance(each, property))
        if not name.startswith("_")
    ]


METHODS = [each for _, kind in CLASSES for each in methods_of(kind)]
PROPERTIES = [each for _, kind in CLASSES for each in properties_of(kind)]
CALLABLES = [*FUNCTIONS, *METHODS, *WITH_ARGUMENTS]
SECTIONS = ("Parameters", "Returns", "Raises", "See Also", "Notes", "References", "Examples")


def sections_of(text):
    """Return the text of each section of a docstring by its title; '' is what stands before."""
    parts = re.split(r"^([A-Z]\w+(?: [A-Z]\w+)?)\n(-+)\n", text, flags=re.MULTILINE)
    titles, rules = parts[1::3], parts[2::3]
    assert all(len(title) == len(rule) for title, rule in zip(titles, rules, strict=True))
    assert titles == [title for title in SECTIONS if title in titles], "wrong order or title"
    return {"": parts[0], **dict(zip(titles, parts[3::3], strict=True))}


def entries_of(section):
    """Return the type line and the text of each entry of a section, by its name."""
    heads = re.findall(r"^(\S.*)\n((?:(?: .*)?\n?)*)", section, re.MULTILINE)
    named = {head.partition(" : ")[0]: (head.partition(" : ")[2], text) for head, text in heads}
    return {name.lstrip("*"): entry for name, entry in named.items()}


def parameters_of(call):
    found = inspect.signature(call).parameters
    return {name: each for name, each in found.items() if name != "self"}


@pytest.mark.parametrize(("name", "named"), [*CLASSES, *FUNCTIONS, *METHODS, *PROPERTIES])
def test_the_first_line_is_a_sentence(name, named):
    first = inspect.getdoc(named).splitlines()[0]

    assert re.match(r"^[A-Zk`].{8,}[^.]\.$", first), first


@pytest.mark.parametrize(("name", "call"), CALLABLES)
def test_every_parameter_has_its_type_and_its_default(name, call):
    described = entries_of(sections_of(inspect.getdoc(call)).get("Parameters", ""))

    wanted = parameters_of(call)
    assert list(described) == list(wanted)
    for parameter, (kind, text) in described.items():
        default = wanted[parameter].default
        assert kind, f"{parameter} has no type"
        assert text.strip().endswith("."), f"{parameter} has no sentence"
        is_optional = default is not inspect.Parameter.empty
        assert bool(re.search("default[= ]", kind)) == is_optional, f"{parameter}: {kind}"
        if isinstance(default, str | int | float | None) and is_optional:
            assert re.search(f"default[= ]{re.escape(repr(default))}$", kind), (
                f"{parameter}: {kind}"
            )


@pytest.mark.parametrize(("name", "call"), [*FUNCTIONS, *METHODS])
def test_what_is_returned_is_described(name, call):
    returned = inspect.signature(call).return_annotation

    described = sections_of(inspect.getdoc(call)).get("Returns", "").strip()
    assert bool(described) == (returned not in ("None", None)), returned
    assert not described or described.endswith(".")


@pytest.mark.parametrize(("name", "call"), CALLABLES)
def test_what_is_raised_is_an_error_of_ours(name, call):
    raised = entries_of(sections_of(inspect.getdoc(call)).get("Raises", ""))

    names = [name for entry in raised for name in entry.split(", ")]
    assert all(issubclass(getattr(ray_kmeans.errors, name), Exception) for name in names)
    assert all(text.strip().endswith(".") for _, text in raised.values())


@pytest.mark.parametrize(("name", "call"), [*FUNCTIONS, *WITH_ARGUMENTS])
def test_each_function_and_class_has_an_example(name, call):
    assert ">>> " in sections_of(inspect.getdoc(call))["Examples"]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_each_field_of_a_record_has_a_docstring_of_its_own(kind):
    body = ast.parse(inspect.getsource(kind)).body[0].body
    named = [line.target.id for line in body if isinstance(line, ast.AnnAssign)]

    explained = [
        line.target.id
        for line, text in itertools.pairwise(body)
        if isinstance(line, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and re.match(r"^[A-Z{'].*\.$", text.value.value, re.DOTALL)
    ]

    assert explained == named
    assert is_dataclass(kind)


def test_help_on_the_config_shows_every_field_with_its_default():
    described = entries_of(sections_of(inspect.getdoc(ray_kmeans.RunConfig))["Parameters"])

    assert list(described) == [each.name for each in fields(ray_kmeans.RunConfig)]
    for each in fields(ray_kmeans.RunConfig):
        default = each.default_factory() if each.default is MISSING else each.default
        assert described[each.name][0].endswith(f"default={default!r}")


@pytest.mark.parametrize(
    ("parameter", "choices"),
    [
        ("distance_metric", config.DistanceMetric),
        ("empty_clusters", config.EmptyClusters),
        ("backend", config.Backend),
        ("cache", config.Cache),
    ],
)
def test_the_choices_in_a_docstring_are_those_of_the_type(parameter, choices):
    text = f"{ray_kmeans.KMeansClustering.__doc__}{ray_kmeans.RunConfig.__doc__}"

    listed = re.search(rf"^    {parameter} : {{(.*)}}, default=", text, re.MULTILINE)[1]

    assert listed == ", ".join(map(repr, get_args(choices)))


def test_the_names_of_choices_are_those_that_the_algorithm_goes_by():
    methods = (choose.RANDOM, choose.KMEANS_PLUS_PLUS, choose.KMC2, choose.KMEANS_PARALLEL)

    assert get_args(config.DistanceMetric) == tuple(map(str, metric.Metric))
    assert get_args(config.InitialMethod) == methods


def test_public_names_say_what_they_return():
    untyped = [
        name
        for name, call in [*FUNCTIONS, *METHODS]
        if inspect.signature(call).return_annotation in ("Any", inspect.Signature.empty)
    ]

    assert untyped == ["Predictor.__call__"]  # a table, or a dict of arrays, as it was given
