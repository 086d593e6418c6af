"""What a machine can hold of plain English: first sentences, one docstring for each name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.syntax import is_text

PACKAGE = Path(__file__).parents[2] / "ray_kmeans"
MODULES = sorted(PACKAGE.rglob("*.py"))
RIDDLES = re.compile(r"\b(so many|that of|what is|the seed's|the house)\b", re.IGNORECASE)
"""Words of sentences that nobody understands at first reading, by experience."""
SELF_EXPLANATORY = re.compile(r"log|__\w+__")
"""Names of a module that need no docstring: its logger, and what Python itself gives a meaning."""
TYPE_VARIABLES = ("TypeVar", "ParamSpec")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def first_sentences(text):
    """Yield the first paragraph of each docstring of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield docstring.split("\n\n")[0]


def constants_without_docstring(text):
    """Yield the names that a module assigns without a docstring that is theirs alone."""
    body = ast.parse(text).body
    for part, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(part, ast.AnnAssign | ast.Assign) and not is_type_variable(part):
            names = list(assigned_names(part))
            if not is_text(below) or len(names) > 1:
                yield from (name for name in names if not SELF_EXPLANATORY.fullmatch(name))


def is_type_variable(part):
    called = getattr(part.value, "func", None)
    return isinstance(called, ast.Name) and called.id in TYPE_VARIABLES


def assigned_names(part):
    """Yield the names that an assignment binds: several where it unpacks a tuple."""
    targets = part.targets if isinstance(part, ast.Assign) else [part.target]
    for target in targets:
        yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def shared_docstrings(text):
    """Yield docstrings of fields that stand under two fields or more: tools give them to one."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ClassDef):
            continue
        fields = 0
        for part in node.body:
            if is_text(part) and fields > 1:
                yield part.value.value
            fields = fields + 1 if isinstance(part, ast.AnnAssign | ast.Assign) else 0


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_begin_with_a_plain_sentence(module):
    found = list(first_sentences(module.read_text()))

    assert [each for each in found if RIDDLES.search(each)] == []
    assert [each for each in found if not each.rstrip().endswith((".", "?", ":"))] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_field_has_a_docstring_of_its_own(module):
    assert list(shared_docstrings(module.read_text())) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_constant_of_a_module_has_a_docstring_of_its_own(module):
    assert list(constants_without_docstring(module.read_text())) == []


def test_constants_that_share_a_docstring_or_lack_one_are_found():
    text = 'log = 0\n\nA = 1\n"""A number."""\nB, C = 2, 3\n"""Of each."""\nD = 4\nE = 5\n'

    assert list(constants_without_docstring(text)) == ["B", "C", "D", "E"]
    assert list(constants_without_docstring('T = TypeVar("T")')) == []


def test_a_riddle_and_a_shared_docstring_are_found():
    fields = '    a: int\n    b: int\n    """Of each."""\n'
    text = f'class A:\n    """Return that of what is there."""\n{fields}'

    assert [bool(RIDDLES.search(each)) for each in first_sentences(text)] == [True]
    assert list(shared_docstrings(text)) == ["Of each."]
