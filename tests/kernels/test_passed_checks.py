"""A self-check that a unit passed is made once on each type of machine, and never when in doubt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ray_kmeans.kernels import cpu_units, fastest_unit, passed_checks
from ray_kmeans.kernels.llvm import int8_products
from ray_kmeans.process import jit

WORK = fastest_unit.Work.MANY_COLUMNS
UNIT = "some unit"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the machine code."""
    monkeypatch.setattr(jit, "folder_of", lambda compiled: tmp_path)
    return tmp_path


@pytest.fixture
def checks(monkeypatch):
    """The works that the only unit of this processor was checked for, in order."""
    made = []
    units = {"some": cpu_units.NamedUnit(UNIT, int8_products.plain)}
    monkeypatch.setattr(cpu_units, "units", lambda: units)
    monkeypatch.setattr(fastest_unit, "_speed", lambda unit: 1.0)
    monkeypatch.setattr(fastest_unit, "_is_right", lambda unit, work: not made.append(work))
    fastest_unit.fastest.cache_clear()
    yield made
    fastest_unit.fastest.cache_clear()


def in_another_process():
    """Ask which unit is fastest, as a process does that has not asked before."""
    fastest_unit.fastest.cache_clear()
    assert fastest_unit.fastest(WORK)[0].name == UNIT


def test_a_check_that_was_passed_is_not_made_by_the_next_process(checks):
    in_another_process()
    in_another_process()

    assert checks == [WORK]


def test_each_unit_and_work_is_checked_by_itself(checks):
    passed_checks.note("another unit", WORK.value)
    in_another_process()
    fastest_unit.fastest(fastest_unit.Work.SECOND)

    assert checks == [WORK, fastest_unit.Work.SECOND]


def test_a_check_that_failed_is_made_again(checks, monkeypatch):
    monkeypatch.setattr(fastest_unit, "_is_right", lambda unit, work: bool(checks.append(work)))

    for _ in range(2):
        fastest_unit.fastest.cache_clear()
        assert fastest_unit.fastest(WORK)[0] is None

    assert checks == [WORK, WORK]


def test_a_check_can_be_made_anew(checks):
    in_another_process()
    fastest_unit.fastest(WORK, anew=True)

    assert checks == [WORK, WORK]


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-1], lambda b: b + b"x", bytes.upper]
)
def test_a_damaged_file_is_not_believed_and_made_good(checks, folder, damage):
    in_another_process()
    [path] = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))

    in_another_process()
    in_another_process()

    assert checks == [WORK, WORK]


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (jit, "VERSION", "0.1"),
        (jit, "made_for", lambda: ("some", "processor", "+feature")),
        (jit, "hash_of_modules", lambda folder: "other text"),
        (np, "__version__", "0.1"),
        (passed_checks, "__version__", "0.0.1"),
    ],
)
def test_another_machine_or_version_checks_by_itself_and_takes_nothing_away(
    checks, folder, owner, name, value
):
    in_another_process()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        in_another_process()
        in_another_process()

    in_another_process()

    assert checks == [WORK, WORK]
    assert len(list(folder.iterdir())) == 2


def test_the_file_of_another_machine_is_not_believed_under_our_name(checks, folder):
    passed_checks.note(UNIT, WORK.value)
    [path] = folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"machine: ", b"machine: other-"))

    in_another_process()

    assert checks == [WORK]


def test_a_folder_that_cannot_be_written_is_no_error_and_each_process_checks(
    checks, folder, monkeypatch
):
    def refuse(path, data):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    in_another_process()
    in_another_process()

    assert checks == [WORK, WORK]
    assert list(folder.iterdir()) == []


def test_a_file_that_is_brought_along_is_believed_where_nothing_can_be_written(checks, monkeypatch):
    passed_checks.note(UNIT, WORK.value)
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: pytest.fail("it was written"))

    in_another_process()

    assert checks == []


@pytest.mark.parametrize("place", [None, "no such folder", "a file"])
def test_without_a_folder_each_process_checks(checks, folder, monkeypatch, place):
    (folder / "a file").touch()
    monkeypatch.setattr(jit, "folder_of", lambda compiled: place and folder / place)

    in_another_process()
    in_another_process()

    assert checks == [WORK, WORK]
