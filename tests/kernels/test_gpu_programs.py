"""Triton's programs become machine code for GPUs that this machine need not have."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="there is no Triton for this system")


@pytest.mark.parametrize(
    ("capability", "unit"),
    [
        (80, "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"),
        (90, "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8"),
    ],
)
def test_they_multiply_bytes_by_tensor_cores_and_spill_few_registers(capability, unit, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    command = [sys.executable, "-m", "tests.support.compiling", str(capability)]

    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    # Each is built for one chunk of columns and for more; few rows come to the second program.
    stacks = [int(found) for found in re.findall(r"STACK:(\d+)", said)]
    assert stacks[::2] == [0, 0]
    assert max(stacks[1::2]) <= 16
    assert said.count(unit) == 4
