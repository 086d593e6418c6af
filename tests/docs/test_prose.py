"""What a machine can hold of plain English: first sentences, and one docstring for each field."""

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
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def first_sentences(text):
    """Yield the first paragraph of each docstring of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield docstring.split("\n\n")[0]


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


def test_a_riddle_and_a_shared_docstring_are_found():
    fields = '    a: int\n    b: int\n    """Of each."""\n'
    text = f'class A:\n    """Return that of what is there."""\n{fields}'

    assert [bool(RIDDLES.search(each)) for each in first_sentences(text)] == [True]
    assert list(shared_docstrings(text)) == ["Of each."]
