"""The units of this processor that multiply bytes, and whether this process may use them."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import llvmlite.binding as llvm

from ray_kmeans.kernels.llvm import int8_products
from ray_kmeans.process.jit import features_of_other_processor

WITHOUT = "RAY_KMEANS_WITHOUT"
"""Environment variable for tests and benchmarks: units to do without, as in 'amx,vnni'."""


class NamedUnit(NamedTuple):
    """A unit of the processor that multiplies bytes."""

    name: str
    """Its name in logs."""
    of: Callable[[int], int8_products.Unit]
    """Function from the quads of a row (its bytes in fours) to its instructions."""


_VNNI = ("avx512f", "avx512bw", "avx512vnni")
"""Features that AVX-512 VNNI needs, by LLVM's names."""
_ARM = {"dotprod": (16, 20), "i8mm": (26, 13)}
"""Features of Arm that LLVM does not report: the numbers of the word (16: AT_HWCAP, 26: AT_HWCAP2)
and of the bit in it by which Linux tells of them."""


def units() -> dict[str, NamedUnit]:
    """Return the units that this process may use, by the names that `WITHOUT` takes."""
    masked = os.environ.get(WITHOUT, "").split(",")
    found = {}
    if "amx" not in masked and _has(*_VNNI, "amx-tile", "amx-int8") and _may_use_tiles():
        found["amx"] = NamedUnit("AMX int8", int8_products.amx)
    if "vnni" not in masked and _has(*_VNNI):
        found["vnni"] = NamedUnit("AVX-512 VNNI int8", int8_products.vnni)
    if "avxvnni" not in masked and (_has("avxvnni") or _has(*_VNNI, "avx512vl")):
        found["avxvnni"] = NamedUnit("AVX-VNNI int8", int8_products.avx_vnni)
    if "avx2" not in masked and _has("avx2", "fma"):
        found["avx2"] = NamedUnit("AVX2 int8", int8_products.avx2)
    if "i8mm" not in masked and _has_on_arm("i8mm"):
        found["i8mm"] = NamedUnit("Arm smmla int8", int8_products.arm_matrix)
    if "dotprod" not in masked and _has_on_arm("dotprod"):
        found["dotprod"] = NamedUnit("Arm sdot int8", int8_products.arm_dot)
    if "plain" not in masked:
        found["plain"] = NamedUnit("plain int8", int8_products.plain)
    return found


def _has(*features: str) -> bool:
    """Tell whether this is Linux on a processor with all these features, by LLVM's names.

    Where numba is told to make code for another processor (NUMBA_CPU_NAME), what counts are the
    features that it is told of (NUMBA_CPU_FEATURES): LLVM ends a process that wants others.
    """
    if sys.platform != "linux":
        return False
    other = features_of_other_processor()
    if other is not None:
        return set(features) <= set(other)
    found = llvm.get_host_cpu_features()
    return all(found.get(feature, False) for feature in features)


def _has_on_arm(feature: str) -> bool:
    """Tell whether this is Linux on a 64-bit Arm processor with a feature of `_ARM`."""
    if sys.platform != "linux" or not llvm.get_process_triple().startswith("aarch64-"):
        return False
    ask = ctypes.CDLL(None).getauxval
    ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
    vector, bit = _ARM[feature]
    return bool(ask(vector) >> bit & 1)


@cache
def _may_use_tiles() -> bool:
    """Ask Linux for the tile registers, which a process has to do once (arch_prctl, 0x1023, 18)."""
    return bool(ctypes.CDLL(None, use_errno=True).syscall(158, 0x1023, 18) == 0)
