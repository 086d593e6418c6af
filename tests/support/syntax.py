"""Look at the syntax tree of a module."""

from __future__ import annotations

import ast


def is_text(node):
    """Tell whether a statement is a docstring, of a field or of what it stands in."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
