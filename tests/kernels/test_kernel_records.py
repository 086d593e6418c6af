"""Records that compiled loops take are built by keyword, so that no two arrays change places."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "ray_kmeans" / "kernels" / "int8"
TEXTS = {path.stem: path.read_text() for path in sorted(HERE.glob("*.py"))}


def records_in(texts):
    """Return the names of all classes that are named tuples."""
    return {
        node.name
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(b) == "NamedTuple" for b in node.bases)
    }


def built_by_position(text, records):
    """Return the calls that build a record with an argument that is not named."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in records | {"cls"}
        and (node.args or any(keyword.arg is None for keyword in node.keywords))
    ]


RECORDS = records_in(TEXTS.values())


@pytest.mark.parametrize("module", TEXTS)
def test_a_record_is_built_by_keyword(module):
    assert built_by_position(TEXTS[module], RECORDS) == []


def test_the_records_are_found():
    assert {"Scratch", "CenterPanel", "RowPanel", "QuantizedRows", "Target", "Slots"} <= RECORDS


@pytest.mark.parametrize("call", ["Target(a, b)", "Target(*fields)", "Target(**fields)", "cls(a)"])
def test_a_record_that_is_built_by_position_is_found(call):
    assert built_by_position(call, RECORDS) == [call]
