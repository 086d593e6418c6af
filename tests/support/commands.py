"""Commands that end with an error, run in this process."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import pytest

from ray_kmeans import cli


def refused(words):
    """Run a command that fails; return its exit code and its last line, "error: ..."."""
    told = io.StringIO()
    with redirect_stderr(told), pytest.raises(SystemExit) as caught:
        cli.main(words)
    code = caught.value.code
    if isinstance(code, str):  # Python prints it, and ends with 1
        code, line = 1, code
    else:
        line = told.getvalue().removesuffix("\n").rpartition("\n")[2]
        assert told.getvalue().endswith(f"{line}\n")
    assert line.startswith("error: ")
    assert line.isprintable()
    return code, line
