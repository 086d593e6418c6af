"""Turn the words of a command line into flags; a wrong one gives an error of one sentence."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes

from ray_kmeans.cli import config_file
from ray_kmeans.cli.flags import JSON, parse_json
from ray_kmeans.errors import ConfigError

T = TypeVar("T")

OWN = ("config", "help", "version")
"""Names of flags that every command has besides its own."""
SWITCH_VALUES = ("true", "false")
"""Values that people write behind a switch, which takes none."""
BORDER = "│┃|"
"""Characters of the box that tyro draws around a message."""


def flags_in(words: Sequence[str], kind: type[T], prog: str | None) -> T:
    """Return the flags that the words give; ConfigError for words that are none."""
    _check_names(words, kind, prog)
    defaults = config_file.defaults_in(words, kind)
    message = io.StringIO()
    how: dict[str, Any] = {"prog": prog, "default": defaults, "config": (OmitArgPrefixes,)}
    try:
        with redirect_stderr(message):
            flags: T = tyro.cli(kind, args=words, **how)
    except SystemExit as ended:
        if not ended.code:
            raise  # after --help
        sentence = _sentence(message.getvalue(), config_file.flags_of(kind))
        raise ConfigError(f"{sentence} {see_help(prog)}") from None
    for name in set(JSON) & set(vars(flags)):
        parse_json(name, vars(flags)[name])
    return flags


def see_help(prog: str | None) -> str:
    """Return the sentence that says where the help is."""
    return f"See `{prog} --help`." if prog else "See --help."


def _check_names(words: Sequence[str], kind: type[Any], prog: str | None) -> None:
    """Raise ConfigError for a flag that does not exist; the word after it is not shown."""
    known = config_file.flags_of(kind)
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if not word.startswith("--") or word == "--":
            continue
        flag = word.partition("=")[0]
        name = flag[2:].replace("-", "_")
        bare = name.removeprefix("no_")
        if known.get(bare) is bool and (value := after if word == flag else word[len(flag) + 1 :]):
            _check_switch(flag, value)
        if name in known or name in OWN or known.get(bare) is bool or flag.startswith("--tyro"):
            continue
        nearest = config_file.nearest(bare, known).replace("_", "-")
        raise ConfigError(f"{flag} is not known (nearest: --{nearest}). {see_help(prog)}")


def _check_switch(flag: str, value: str) -> None:
    """Raise ConfigError for a switch that is followed by 'true' or 'false'."""
    if value.lower() in SWITCH_VALUES:
        name = flag[2:].removeprefix("no-")
        raise ConfigError(f"{flag} takes no value, not {value!r}. Give --{name} or --no-{name}.")


def _sentence(message: str, known: Mapping[str, Any]) -> str:
    """Return the message that tyro shows in a box as a sentence, without the help of each flag.

    Words that are left over are not repeated: they may be parts of a value with a secret.
    """
    text = " ".join(_first_part(message)) or "the words cannot be read."
    if text.startswith("Unrecognized"):
        return "there are more words than it takes; quote a value that holds spaces."
    missing = re.match(r"Missing from .*?: (.*)|Required options: (.*)", text)
    if missing:
        return f"these are missing: {missing[1] or missing[2]}."
    text = text.removeprefix("Error parsing run: ")
    flag = re.match(r"Error parsing --([\w-]+): ", text)
    if flag and (hint := known.get(flag[1].replace("-", "_"))) is not None:
        value = re.search(r"'([^']*)'\W*$", text.partition(" Got errors")[0])
        given = f", not {value[1]!r}" if value else ""
        return f"--{flag[1]} takes {config_file.in_words(hint)}{given}."
    return text if text.endswith(".") else f"{text}."


def _first_part(message: str) -> Iterator[str]:
    """Yield the lines of a message in a box, down to its first rule."""
    for line in message.splitlines():
        text = line.strip().strip(BORDER)
        if line.lstrip()[:1] in "╭╰":
            continue
        if re.fullmatch(r"\s*─+\s*", text):
            return
        if not text.startswith(" " * 9):  # the help of a flag
            yield text.strip()
