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
def test_they_multiply_bytes_by_tensor_cores_and_spill_no_registers(capability, unit, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    command = [sys.executable, "-m", "tests.compiling", str(capability)]

    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert re.findall(r"STACK:\d+", said) == ["STACK:0"] * 2
    assert said.count(unit) == 2
