"""Loops are compiled wherever this runs: a cache that cannot be written is only told of, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ray_kmeans"
FIT = """
import sys
import numpy as np
from ray_kmeans import KMeansClustering, RunConfig
x = np.arange(80, dtype=np.float32).reshape(20, 4)
config = RunConfig(num_workers=int(sys.argv[2]), progress=False)
km = KMeansClustering(2, sys.argv[1], x[:2], use_mini_batch=False, config=config).fit(x)
print(km.clusters().tolist())
"""


def nowhere(tmp_path):
    """Return a copy of the package, and an environment in which numba finds no place to write.

    A file stands wherever it would make a folder: root may write to all that is only forbidden.
    """
    copy = tmp_path / "here" / "ray_kmeans"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("")
    blocked = tmp_path / "file"
    blocked.write_text("")
    return {
        **os.environ,
        "PYTHONPATH": str(copy.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(blocked / "cache"),
        "HOME": str(blocked),
        "XDG_CACHE_HOME": str(blocked),
    }


def fit(tmp_path, environment, workers=0):
    command = [sys.executable, "-c", FIT, str(tmp_path / f"model {workers}"), str(workers)]
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )


def test_a_fit_goes_on_without_a_cache_and_says_so_once(tmp_path):
    done = fit(tmp_path, nowhere(tmp_path))

    assert (done.stdout, done.returncode) == (
        "[[18.0, 19.0, 20.0, 21.0], [58.0, 59.0, 60.0, 61.0]]\n",
        0,
    ), done.stderr
    assert done.stderr.count("numba finds no folder that it can write its cache to") == 1
    assert done.stderr.count("\n") == 1


def test_a_cache_that_turns_out_to_be_full_is_no_error(tmp_path, caplog, monkeypatch):
    import numba
    from numba.core import caching

    from ray_kmeans.process import jit

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    jit._warn_once.cache_clear()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)

    @jit.njit(nogil=True)
    def doubled(x):
        return 2 * x

    assert (doubled(4), doubled(1.5)) == (8, 3.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    jit._warn_once.cache_clear()


def test_a_folder_that_numba_passes_by_is_told_of(tmp_path, caplog, monkeypatch):
    import numba

    from ray_kmeans.process import jit

    (tmp_path / "file").touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file" / "cache"))

    @jit.njit(nogil=True)
    def doubled(x):
        return 2 * x

    assert doubled(4) == 8
    [record] = caplog.records
    assert record.getMessage().startswith(f"NUMBA_CACHE_DIR={tmp_path / 'file' / 'cache'} has no")
    assert str(jit.folder_of(doubled)) in record.getMessage()


def test_machine_code_that_this_user_may_not_read_is_told_of_once(tmp_path, caplog, monkeypatch):
    import numba
    from numba.core import caching

    from ray_kmeans.process import jit

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(caching.IndexDataCacheFile, "load", forbidden)

    @jit.njit(nogil=True)
    def doubled(x):
        return 2 * x

    assert (doubled(4), doubled(1.5)) == (8, 3.0)
    [record] = [each for each in caplog.records if each.levelname == "WARNING"]
    assert record.getMessage().startswith(f"this user may not read the machine code in {tmp_path}")


ROOM = {
    "outer": """
        from inner import add
        from ray_kmeans.process.jit import njit

        @njit(nogil=True)
        def twice(x):
            return add(x, x)
        """,
    "inner": """
        from ray_kmeans.process.jit import njit

        @njit(nogil=True)
        def add(x, y):
            return x + y
        """,
}
"""Two modules of a folder of a package; a loop of the first one calls one of the second."""
CALL = """
import sys
from pathlib import Path
from numba.core import caching, event
from ray_kmeans.process import jit

jit.PACKAGE = Path(sys.argv[1])
compiled = []

class Compiled(event.Listener):
    def on_start(self, told):
        compiled.append(told)
    def on_end(self, told):
        pass

def refuse(*_):
    raise OSError(30, "Read-only file system")

event.register("numba:compile", Compiled())
if "read-only" in sys.argv:
    caching._CacheLocator.ensure_cache_path = refuse
    caching.IndexDataCacheFile._open_for_write = refuse
sys.path.insert(0, str(jit.PACKAGE / "room"))
import outer
print(outer.twice(3), len(compiled) > 0, "numba.misc.cffiimpl" in sys.modules)
"""


@pytest.fixture
def room(tmp_path):
    """Return the folder of two modules, and one of a cache for them."""
    folder = tmp_path / "package" / "room"
    folder.mkdir(parents=True)
    for name, text in ROOM.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder, tmp_path / "cache"


def call(room, *how):
    """Call the outer loop in a process of its own; return what it gives, and if it was compiled.

    Only a process that compiles imports all that numba can compile.
    """
    folder, cache = room
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CALL, str(folder.parent), *how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    number, compiled, has_imported_all = done.stdout.split()
    assert has_imported_all == compiled
    return int(number), compiled == "True"


def test_machine_code_goes_by_the_text_of_all_modules_that_a_loop_may_call(room):
    assert call(room) == (6, True)
    assert call(room) == (6, False)
    inner = room[0] / "inner.py"

    inner.write_text(inner.read_text().replace("x + y", "x * y"))

    assert call(room) == (9, True)
    assert call(room) == (9, False)


def test_machine_code_does_not_go_by_the_times_of_files(room):
    call(room)

    for path in room[0].glob("*.py"):
        os.utime(path, (1e9, 1e9))

    assert call(room) == (6, False)


@pytest.mark.long(kind="damaged cache")
@pytest.mark.parametrize(("kind", "length"), [("nbi", 0), ("nbi", 40), ("nbc", 1000)])
def test_a_damaged_cache_is_compiled_anew(room, kind, length):
    call(room)

    for path in room[1].rglob(f"*.{kind}"):
        path.write_bytes(path.read_bytes()[:length])

    assert call(room) == (6, True)
    assert call(room) == (6, False)


def test_a_cache_that_is_brought_along_is_used_where_it_cannot_be_written(room):
    call(room)

    assert call(room, "read-only") == (6, False)


def test_the_code_for_two_processors_has_two_names(room):
    call(room)
    [folder] = room[1].iterdir()
    first = set(folder.glob("outer*.nbc"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CPU_NAME", "generic")
        assert call(room) == (6, True)
        assert call(room) == (6, False)

    assert first < set(folder.glob("outer*.nbc"))
    assert len({path.name.split(".")[-3] for path in folder.glob("outer*.nbc")}) == 2
    assert call(room) == (6, False)


@pytest.mark.long
@pytest.mark.ray
def test_workers_on_ray_go_on_without_a_cache(tmp_path):
    environment = nowhere(tmp_path)
    here = fit(tmp_path, environment)

    on_ray = fit(tmp_path, environment, workers=2)

    assert on_ray.returncode == 0, on_ray.stderr
    assert on_ray.stdout == here.stdout
