"""Read flags from a file, `--config FILE`; those of the command line win over it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from reprlib import repr as shortly
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
import yaml
from tyro.conf import Positional

from ray_kmeans.cli.flags import JSON
from ray_kmeans.errors import ConfigError
from ray_kmeans.io.remote import Remote, raise_store_errors
from ray_kmeans.text import secrets
from ray_kmeans.workflows.presets import PRESETS

T = TypeVar("T")

MOST_BYTES = 2**20
"""Largest size in bytes of a file of flags."""
MOST_KEYS = 5
"""Largest number of unknown keys that a message names."""
LONGEST = 60
"""Largest number of characters of a value that a message repeats."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads YAML in which 1e-4 is a number, as in version 1.2, and refuses a key given twice.

    It refuses aliases, by which a few lines become gigabytes.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node of the file; refuse an alias, by which a small file can grow without
        bound."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Construct a mapping; refuse a key that is given twice: YAML would keep the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                problem = f"{shortly(key.value)} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen |= {key.value} if isinstance(key.value, str) else set()
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of JSON with these members; ValueError for a name that is given twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shortly(name)} is given twice")
        found[name] = value
    return found


def defaults_in(words: Sequence[str], kind: type[T]) -> T | None:
    """Return flags with the values of `--preset`, and over them those of the file that `--config`
    names; None without either.

    The preset may stand in the file, too. One that does not exist is left to the parser of flags.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?")
    finder.add_argument("--preset", nargs="?")
    found = finder.parse_known_args(list(words))[0]
    values = values_of(found.config, kind) if found.config else {}
    name = found.preset or values.get("preset")
    preset = PRESETS.get(str(name), {}) if "preset" in flags_of(kind) else {}
    return _build(kind, {**preset, **values}) if preset or found.config else None


def values_of(path: str, kind: type[Any]) -> dict[str, Any]:
    """Return the values of the flags in a file by their names.

    Raises ConfigError for keys that are no flags, and for values that a flag does not take.
    """
    values = _read(path)
    shown = Remote(path).shown
    known = flags_of(kind)
    unknown = [key for key in values if key not in known]
    if unknown:
        some = unknown[:MOST_KEYS]
        named = (f"{shortly(key)} (nearest: {nearest(key, known)!r})" for key in some)
        more = f" and {len(unknown) - MOST_KEYS} more" if len(unknown) > MOST_KEYS else ""
        raise ConfigError(f"{shown!r} holds unknown keys: {', '.join(named)}{more}.")
    for name, value in values.items():
        if name in JSON and not isinstance(value, str):
            values[name] = json.dumps(value, default=str)
        elif not fits(value, known[name]):
            takes = in_words(known[name])
            raise ConfigError(f"{shown!r} holds {name}={_shown(value)}; it takes {takes}.")
    _check_places(values, kind, shown)
    return values


def flags_of(kind: type[Any]) -> dict[str, Any]:
    """Return the type of every flag of a command by its name, without `config` itself."""
    flags: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        nested = isinstance(hint, type) and is_dataclass(hint)
        flags |= flags_of(hint) if nested else {name: hint}
    return {name: hint for name, hint in flags.items() if name != "config"}


def nearest(key: str, known: Mapping[str, Any]) -> str:
    """Return the known key that is most like this one."""
    return str(get_close_matches(key, known, 1, cutoff=0.0)[0])


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value from a file has the type of a flag."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        return isinstance(value, list) and all(fits(each, inside[0]) for each in value)
    if hint in (int, float):
        whole_or_not = int if hint is int else (int, float)
        return isinstance(value, whole_or_not) and not isinstance(value, bool)
    return isinstance(value, hint)


def _shown(value: Any) -> str:
    """Return a value as text for messages; a mapping is not shown, as it may hold a secret."""
    if isinstance(value, dict | set):
        return "{...}"
    if isinstance(value, list):
        text = f"[{', '.join(map(_shown, value[:LONGEST]))}]"
    else:
        text = repr(secrets.shown(value) if isinstance(value, str) else value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def in_words(hint: Any) -> str:
    """Return a type as text for messages."""
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _read(path: str) -> dict[str, Any]:
    """Return the mapping that a file holds; ConfigError if it cannot be read or holds none."""
    place = Remote(path)
    if not path.endswith((".yaml", ".yml", ".json")):
        raise ConfigError(f"config={place.shown!r} must end with .yaml, .yml or .json.")
    with raise_store_errors(f"config={place.shown!r} cannot be read", url=path):
        data = bytes(place.fs.cat_file(place.path, end=MOST_BYTES + 1))
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{place.shown!r} has more than {MOST_BYTES:,} bytes; it is no config.")
    language = "JSON" if path.endswith(".json") else "YAML"
    try:
        text = data.decode()
        if language == "JSON":
            found = json.loads(text, object_pairs_hook=_unique)
        else:
            found = yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(f"{place.shown!r} is nested too deeply.") from None
    except yaml.MarkedYAMLError as error:  # its own text shows lines, which may hold a secret
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{place.shown!r} is not YAML: line {line}: {error.problem}.") from None
    except (ValueError, yaml.YAMLError) as error:
        problem = str(error).partition("\n")[0]
        raise ConfigError(f"{place.shown!r} is not {language}: {problem}.") from None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{place.shown!r} must hold names of flags with their values, as num_clusters: 10, "
            f"and holds {'nothing' if found is None else f'a {type(found).__name__}'}."
        )
    return {str(key): value for key, value in found.items()}


def _check_places(values: Mapping[str, Any], kind: type[Any], shown: str) -> None:
    """Raise ConfigError for a file that holds some of the positional arguments, but not all.

    It would be a guess for which of the others a word on the command line stands.
    """
    (mark,) = get_args(Positional[str])[1:]
    hints = get_type_hints(kind, include_extras=True)
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    places = [name for name, hint in hints.items() if mark in get_args(hint) and name in needed]
    given = [name for name in places if name in values]
    if given and given != places:
        raise ConfigError(
            f"{shown!r} holds {' and '.join(given)}, but not {places}. Give all of these there, or "
            "all of them on the command line."
        )


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return flags with the values, and tyro's mark for those that must still be given."""
    hints = get_type_hints(kind)
    made: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if is_dataclass(hints[field.name]):
            made[field.name] = _build(hints[field.name], values)
        elif field.name in values:
            value = values[field.name]
            made[field.name] = tuple(value) if isinstance(value, list) else value
        elif field.default is MISSING and field.default_factory is MISSING:
            made[field.name] = tyro.MISSING
    return kind(**made)
