"""Flags from a file: the same as on the command line, which wins over it."""

from __future__ import annotations

import json
import re
import types
import uuid
from dataclasses import fields, is_dataclass
from typing import Literal, Union, get_args, get_origin

import fsspec
import pytest
import yaml

from ray_kmeans import cli
from ray_kmeans.cli.config_file import flags_of
from ray_kmeans.cli.flags import JSON
from tests.support.commands import refused

FIT = {"uri": "data", "model_dir": "model", "num_clusters": 7}


@pytest.fixture
def parse(monkeypatch):
    """Return the flags that a command gets to work with."""

    def flags_for(name, *words):
        seen = []
        command = cli.Command(cli.COMMANDS[name].flags, seen.append)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(cli.COMMANDS, name, command)
            cli.main([name, *words])
        return seen[0]

    return flags_for


def put(path, values, dump=json.dumps):
    path.write_text(values if isinstance(values, str) else dump(values))
    return str(path)


def refusal(name, *words):
    """Return the line with which a command ends that has a wrong file."""
    return refused([name, *words])[1]


def another(hint, name):
    """Return a value of a type, that is not the default."""
    if name in JSON:
        return '["x"]' if name == "filters" else '{"x": "y"}'
    kind, inside = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return another(inside[0], name)
    if kind is Literal:
        return inside[-1]
    if kind is tuple:
        return {int: [3, 4], float: [2.5, 3.5]}.get(inside[0], ["x", "y"])
    special = {
        "gpus_per_worker": 0.5,
        "cache": "disk",
        "backend": "gpu",
        "use_mini_batch": False,
        "progress": False,
    }
    plain = {int: 3, float: 2.5, str: "text", bool: True}
    return special.get(name, plain.get(hint))


def flat(flags):
    values = {}
    for field in fields(flags):
        value = getattr(flags, field.name)
        values |= flat(value) if is_dataclass(value) else {field.name: value}
    return values


@pytest.mark.parametrize("end", ["yaml", "yml", "json"])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_flag_of_every_command_may_stand_in_a_file(name, end, tmp_path, parse):
    wanted = {k: another(hint, k) for k, hint in flags_of(cli.COMMANDS[name].flags).items()}
    path = put(tmp_path / f"c.{end}", wanted, json.dumps if end == "json" else yaml.safe_dump)

    found = flat(parse(name, "--config", path))

    assert found.pop("config") == path
    assert found == {k: tuple(v) if isinstance(v, list) else v for k, v in wanted.items()}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_what_a_file_leaves_out_is_as_without_it(name, tmp_path, parse):
    places = ("uri", "model_dir", "old_model", "new_model", "output")
    needed = {"num_clusters": 7, "num_rows": 3, "num_features": 2} | dict.fromkeys(places, "p")
    known = flags_of(cli.COMMANDS[name].flags)
    needed = {k: v for k, v in needed.items() if k in known}
    needed |= {"ks": [3, 4]} if "ks" in known else {}
    if name == "evaluate":
        del needed["output"]  # a flag there
    words = [needed[k] for k in places if k in needed and name != "demo"]
    rest = {k: v for k, v in needed.items() if k not in places or name == "demo"}
    for k, v in rest.items():
        words += [f"--{k.replace('_', '-')}", *map(str, v if isinstance(v, list) else [v])]

    in_file = flat(parse(name, "--config", put(tmp_path / "c.json", needed)))
    on_line = flat(parse(name, *words))

    assert {**in_file, "config": None} == on_line


def test_flags_of_the_command_line_win_over_the_file(tmp_path, parse):
    more = {"num_workers": 3, "columns": ["x"], "use_mini_batch": False, "max_steps": 5}
    path = put(tmp_path / "c.json", {**FIT, **more})
    words = "other place --num-clusters 9 --num-workers 0 --columns y z --use-mini-batch"

    flags = parse("fit", *words.split(), "--max-steps", "None", "--config", path)

    assert (flags.uri, flags.model_dir, flags.num_clusters) == ("other", "place", 9)
    assert (flags.columns, flags.use_mini_batch, flags.max_steps) == (("y", "z"), True, None)
    assert flags.run.num_workers == 0


def test_the_places_may_stand_in_the_file_or_on_the_command_line(tmp_path, parse, capsys):
    path = put(tmp_path / "c.yaml", {"num_clusters": 7}, yaml.safe_dump)
    some = put(tmp_path / "some.yaml", {"uri": "data", "num_clusters": 7}, yaml.safe_dump)

    assert parse("fit", "a", "b", f"--config={path}").uri == "a"
    line = refusal("fit", "model", "--config", some)

    assert "holds uri, but not ['uri', 'model_dir']" in line


def test_json_in_a_file_is_what_it_means(tmp_path, parse):
    text = (
        "filters: [[day, '>=', 2024-01-31]]\nstorage_options: {key: k}\nrelative_tolerance: 1e-4\n"
    )
    path = put(tmp_path / "c.yaml", text)

    flags = parse("fit", "data", "model", "--num-clusters", "7", "--config", path)

    assert json.loads(flags.filters) == [["day", ">=", "2024-01-31"]]
    assert json.loads(flags.storage_options) == {"key": "k"}
    assert flags.relative_tolerance == 1e-4


def test_a_file_may_lie_in_any_store(parse):
    url = f"memory://{uuid.uuid4().hex}/c.json"
    with fsspec.open(url, "w") as file:
        json.dump(FIT, file)

    assert parse("fit", "--config", url).num_clusters == 7


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_unknown_keys_are_named_with_the_nearest_that_is_known(name, tmp_path, capsys):
    known = flags_of(cli.COMMANDS[name].flags)
    misspelt = {key[:-1] + "x": key for key in ("output", "storage_options") if key in known}
    if "run" in {f.name for f in fields(cli.COMMANDS[name].flags)}:
        misspelt |= {"run": None, "cpus-per-worker": "cpus_per_worker"}

    line = refusal(name, "--config", put(tmp_path / "c.json", {**misspelt, "config": 1}))

    assert "'config'" in line
    for key, nearest in misspelt.items():
        assert f"{key!r} (nearest: {nearest!r})" in line if nearest else repr(key) in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_clusters", "many"),
        ("num_clusters", 7.5),
        ("num_clusters", True),
        ("num_clusters", None),
        ("use_mini_batch", 1),
        ("max_steps", [1]),
        ("relative_tolerance", "small"),
        ("columns", "x"),
        ("columns", [1]),
        ("uri", ["a"]),
        ("cache_dir", 7),
    ],
)
def test_a_value_of_another_type_is_refused(key, value, tmp_path, capsys):
    line = refusal("fit", "--config", put(tmp_path / "c.json", {**FIT, key: value}))

    assert f"{key}={value!r}; it takes " in line


def test_a_password_in_a_value_that_is_refused_is_not_repeated(tmp_path, capsys):
    path = put(tmp_path / "c.json", {**FIT, "uri": ["s3://me:hush@bucket/x"]})

    assert "hush" not in refusal("fit", "--config", path)


def test_a_value_that_no_run_can_use_is_refused(tmp_path, capsys):
    path = put(tmp_path / "c.json", {**FIT, "keep_checkpoint_max": 0})

    assert "keep_checkpoint_max=0 must be" in refusal("fit", "--config", path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.yaml", "key: hush\n  b: [hush", "is not YAML: line 2: "),
        ("c.yaml", "key: *hush", "is not YAML: line 1: "),
        ("c.yaml", "key: !!python/object:os.system hush", "is not YAML: line 1: "),
        ("c.yaml", "key: 2024-13-45", "is not YAML: month must be"),
        ("c.yaml", "key: \a", "is not YAML: unacceptable character"),
        ("c.json", '{"key": "hush",', "is not JSON: "),
        ("c.json", '["hush"]', "and holds a list."),
        ("c.yaml", "", "and holds nothing."),
        ("c.toml", "key = 1", "must end with .yaml, .yml or .json"),
    ],
)
def test_a_file_that_is_none_is_refused_and_not_repeated(name, text, said, tmp_path, capsys):
    line = refusal("fit", "--config", put(tmp_path / name, text))

    assert said in line
    assert "= 1" not in line
    assert '"hush' not in line


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert "no.yaml' cannot be read" in refusal("fit", "--config", str(tmp_path / "no.yaml"))


HOSTILE = {
    "deep.json": ('{"filters": ' + "[" * 100_000, "is nested too deeply"),
    "deep.yaml": ("filters: " + "[" * 20_000, "is nested too deeply|is not YAML"),
    "deep but closed.json": ("[" * 50_000 + "]" * 50_000, "is nested too deeply"),
    "bomb.yaml": (
        "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a, *a]\n" for n in range(40)),
        "is not YAML: line 2: aliases are not read",
    ),
    "huge.yaml": ("a: " + "x" * 2**20, "has more than 1,048,576 bytes"),
    "huge.json": (" " * 2**21, "has more than 1,048,576 bytes"),
    "binary.yaml": (b"\x00\xff\xfe\x01", "is not YAML: 'utf-8' codec"),
    "binary.json": (b"\x89PNG\r\n\x1a\n", "is not JSON: 'utf-8' codec"),
    "zeros.yaml": (b"\x00" * 99, "is not YAML"),
    "twice.yaml": ("num_clusters: 2\nnum_clusters: 3\n", "line 2: 'num_clusters' is given twice"),
    "twice.json": ('{"num_clusters": 2, "num_clusters": 3}', "'num_clusters' is given twice"),
    "many.json": (json.dumps({f"k{n}": n for n in range(20_000)}), "and 19995 more"),
    "long.json": (json.dumps({"x" * 300_000: 1}), "holds unknown keys: 'x"),
    "secret.yaml": (
        "num_clusters: {password: hush}",
        r"num_clusters=\{\.\.\.\}; it takes int",
    ),
    "url.yaml": ("num_clusters: ftp://u:hu/sh@host/x", r"num_clusters='ftp://\*\*\*@host/x'"),
    "controls.yaml": ('"num\\nERROR": 1', r"unknown keys: 'num\\nERROR'"),
    "object.yaml": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_short_line(name, tmp_path):
    content, told = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    code, line = refused(["fit", "--config", str(path)])

    assert code == 2
    assert re.search(told, line)
    assert len(line) < 700
    assert "hush" not in line
    assert "hu/sh" not in line
