"""Which unit multiplies: what the processor has, is allowed, and was seen to be right."""

from __future__ import annotations

import subprocess
import sys

import numba
import numpy as np
import pytest

from ray_kmeans import kernels
from ray_kmeans.kernels import cpu, cpu_units, fastest_unit, passed_checks
from ray_kmeans.kernels.int8 import held_rows
from ray_kmeans.kernels.int8.types import QuantizedRows
from ray_kmeans.kernels.llvm import int8_products
from tests.conftest import ALL_UNITS, UNITS, labels_of, skip_without
from tests.support.walks import hold, table

NAMES = {
    "amx": "AMX int8",
    "vnni": "AVX-512 VNNI int8",
    "avxvnni": "AVX-VNNI int8",
    "avx2": "AVX2 int8",
    "i8mm": "Arm smmla int8",
    "dotprod": "Arm sdot int8",
    "plain": "plain int8",
}
BLAS = "float32 BLAS"
PLAIN = int8_products.plain
MUCH, LITTLE = (10**7, 1000, 100), (500, 5, 4)
"""Rows, centers and columns for which bytes pay, and for which they do not."""


@pytest.fixture(autouse=True)
def _forget_which_is_the_fastest():
    fastest_unit.fastest.cache_clear()
    yield
    fastest_unit.fastest.cache_clear()


@pytest.fixture(autouse=True)
def _keep_no_check(monkeypatch):
    monkeypatch.setattr(passed_checks, "_place", lambda unit, work: None)


@pytest.fixture
def wrong(monkeypatch):
    """Names of units that label wrong; there are three, from the fastest, one, to three."""
    names = set()
    speeds = {"one": 3.0, "three": 1.0, "two": 2.0}
    units = {name: cpu_units.NamedUnit(name, PLAIN) for name in speeds}
    monkeypatch.setattr(cpu_units, "units", lambda: units)
    monkeypatch.setattr(fastest_unit, "_speed", lambda unit: speeds[unit.name])
    monkeypatch.setattr(fastest_unit, "_is_right", lambda unit, work: unit.name not in names)
    return names


@pytest.mark.parametrize("without", ["", "amx", "vnni", "amx,vnni", "vnni,amx", "sse9"])
def test_a_process_can_be_told_to_do_without_units(without, monkeypatch):
    monkeypatch.delenv(cpu_units.WITHOUT, raising=False)
    everything = cpu_units.units()

    monkeypatch.setenv(cpu_units.WITHOUT, without)

    expected = [name for name in everything if name not in without.split(",")]
    assert list(cpu_units.units()) == expected


@pytest.mark.parametrize(
    ("features", "expected"), [("", ["plain"]), ("+avx2,+fma", ["avx2", "plain"])]
)
def test_code_for_another_processor_uses_the_units_that_numba_is_told_of(
    features, expected, monkeypatch
):
    monkeypatch.setattr(numba.config, "CPU_NAME", "znver3")
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)

    assert list(cpu_units.units()) == expected


def test_units_are_known_by_their_names():
    units = cpu_units.units()

    assert list(units) == [name for name in ALL_UNITS if name in units]
    assert "plain" in units
    assert {name: unit.name for name, unit in units.items()} == {n: NAMES[n] for n in units}


@pytest.mark.parametrize("work", fastest_unit.Work)
@pytest.mark.parametrize("unit", ALL_UNITS)
def test_every_unit_of_this_processor_passes_its_self_check(unit, work):
    skip_without(unit)

    assert fastest_unit._is_right(cpu_units.units()[unit], work)


def test_the_fastest_unit_that_is_right_is_used(wrong, caplog):
    assert kernels.load().ready(*MUCH) == "one"
    assert not caplog.records


def test_a_unit_that_labels_wrong_is_left_out_and_the_log_and_the_name_say_so(wrong, caplog):
    wrong.add("one")

    assert kernels.load().ready(*MUCH) == "two, as one failed its self-check"
    assert [record.name for record in caplog.records] == ["ray_kmeans"]
    assert "one failed its self-check" in caplog.text


def test_the_name_says_all_that_failed(wrong, caplog):
    wrong.update(["one", "two"])

    name = kernels.load().ready(*MUCH)

    assert name.startswith("three")
    assert "one failed" in name
    assert "two failed" in name
    assert len(caplog.records) == 2


def test_where_every_unit_labels_wrong_blas_is_used_and_its_name_says_so(wrong, caplog):
    wrong.update(["one", "two", "three"])

    name = kernels.load().ready(*MUCH)

    assert name.startswith(BLAS)
    assert len(caplog.records) == 3
    assert all(f"{unit} failed its self-check" in name for unit in wrong)


def test_where_there_is_no_unit_blas_is_used_without_a_word(monkeypatch, caplog):
    monkeypatch.setattr(cpu_units, "units", dict)

    assert kernels.load().ready(*MUCH) == BLAS
    assert not caplog.records


def test_the_check_is_made_once_in_a_process(wrong, monkeypatch):
    asked = []
    monkeypatch.setattr(fastest_unit, "_is_right", lambda unit, work: not asked.append(unit.name))

    monkeypatch.setattr(cpu, "WORTH", 0)

    for _ in range(3):
        kernels.load().ready(*LITTLE)
        kernels.load().hold([np.zeros((1, 1), np.float32)], "cosine", 1)

    assert asked == ["one"]


@pytest.mark.parametrize("unit", UNITS)
def test_the_self_check_finds_a_bit_that_is_wrong_in_every_product(unit, monkeypatch):
    skip_without(unit)
    quantize_parts = held_rows.quantize_parts

    def quantize_and_spoil(*arguments):
        quantize_parts(*arguments)
        quantized = next(each for each in arguments if isinstance(each, QuantizedRows))
        np.bitwise_xor(quantized.packed, np.int32(0x20202020), out=quantized.packed)

    monkeypatch.setattr(held_rows, "quantize_parts", quantize_and_spoil)

    assert not fastest_unit._is_right(cpu_units.units()[unit], fastest_unit.Work.MANY_COLUMNS)


def test_the_fastest_unit_that_is_really_wrong_is_not_used(monkeypatch, caplog):
    skip_without("amx")
    # Products of a few columns alone: what a processor with a broken unit might do.
    broken = cpu_units.NamedUnit("broken", lambda quads: int8_products.amx(4))
    right = cpu_units.NamedUnit("right", PLAIN)
    monkeypatch.setattr(cpu_units, "units", lambda: {"broken": broken, "right": right})
    monkeypatch.setattr(fastest_unit, "_speed", lambda unit: float(unit is broken))

    assert kernels.load().ready(*MUCH) == "right, as broken failed its self-check"
    assert "broken failed its self-check" in caplog.text


def test_little_work_is_done_by_blas_and_needs_no_check(monkeypatch):
    monkeypatch.setattr(fastest_unit, "_is_right", lambda unit, work: pytest.fail("it was checked"))
    X, centers = table(300, 5, 7, "squared_euclidean")
    kernel = kernels.load()

    assert kernel.ready(*LITTLE) == BLAS
    assert not isinstance(kernel.hold([X], "cosine", 7), held_rows.HeldRows)
    np.testing.assert_array_equal(labels_of(X, centers, "cpu"), labels_of(X, centers, "reference"))


def test_little_work_compiles_nothing_for_units():
    code = """
import numpy as np
from ray_kmeans import kernels
kernel = kernels.load()
kernel.ready(500, 5, 4)
X = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
kernel.hold([X], "squared_euclidean", 5).sums(X[:5], np.ones(4))
kernel.assign(X, kernel.prepare(X[:5], "cosine"), np.empty(500, np.int32))
from ray_kmeans.kernels.int8 import quantize, sweep
print(len(sweep.sweep_parts.signatures), len(quantize.quantize_parts.signatures))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300
    )

    assert done.stdout.split() == ["0", "0"]


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_kernels_of_all_names_give_the_same_labels(metric, monkeypatch):
    monkeypatch.setattr(cpu, "WORTH", 0)  # so that 'cpu' is the fastest unit
    monkeypatch.setattr(cpu, "AT_ONCE", 64)
    X, centers = table(150, 9, 20, metric)
    expected = hold(X, metric, 20, "reference").assign(centers)

    for name in ("cpu", "portable", *cpu_units.units()):
        np.testing.assert_array_equal(labels_of(X, centers, name, metric), expected, name)
        labels = hold(X, metric, 20, name, threads=2).assign(centers)
        np.testing.assert_array_equal(labels, expected, name)


def test_ready_returns_the_name_of_what_is_used():
    found = cpu_units.units()

    assert kernels.load("reference").ready(*LITTLE) == "reference"
    assert kernels.load("portable").ready(*MUCH) == BLAS
    assert {name: kernels.load(name).ready(*LITTLE) for name in found} == {
        n: NAMES[n] for n in found
    }
    assert kernels.load().ready(*MUCH) in NAMES.values()
