"""Compile Triton's programs for GPUs of these compute capabilities, and say what became of them.

python -m tests.support.compiling 80 90
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ray_kmeans.kernels.gpu import programs, quantize
from ray_kmeans.kernels.gpu.centers_int8 import MOST_CANDIDATES
from ray_kmeans.kernels.gpu.packing import Tile

KINDS = {
    **dict.fromkeys(["packed", "panels"], "*i8"),
    **dict.fromkeys(
        ["order", "block_groups", "n_kept", "numbers", "labels", "found", "counts"], "*i32"
    ),
    **dict.fromkeys(["d", "tiles", "chunks"], "i32"),
    "certified": "*i1",
    "scale": "fp32",
}
"""Types of the arguments; those of all others are '*fp32'."""


def build(program, capability, warps, **constants):
    names = program.arg_names
    kinds = {name: KINDS.get(name, "*fp32") for name in names}
    kinds |= dict.fromkeys(constants, "constexpr")
    values = {(names.index(name),): value for name, value in constants.items()}
    of_16 = [["tt.divisibility", 16]]  # as Triton finds of what torch allocates
    aligned = {(i,): of_16 for i, name in enumerate(names) if kinds[name].startswith("*")}
    source = ASTSource(program, kinds, values, aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps})


def resources(cubin):
    """Return what the machine code takes, as CUDA's own tool says."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.check_output([tool, "-res-usage", file.name], text=True)


if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        for d in (128, 129):
            tile = Tile.of(d)
            sizes = {"ROWS": tile.rows, "COLUMNS": tile.columns}
            build(quantize.quantize_rows, capability, 4, **sizes)
            sizes |= {"CENTERS": tile.centers, "WHOLE": d <= tile.columns}
            more = {"MOST": MOST_CANDIDATES}
            for program, own in ((programs.find_lowest_two, {}), (programs.list_candidates, more)):
                built = build(program, capability, tile.warps, **sizes, **own)
                units = {u for u in built.asm["ptx"].split() if "mma" in u and "s8" in u}
                print(capability, d, *units, resources(built.asm["cubin"]))
