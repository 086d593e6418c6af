"""What people may see of URLs and of storage options: what is known to be no secret.

Of a URL these are scheme, host, port and path. User info, query and fragment are shown as ``***``;
so is all of a URL that can be read in two ways, as where a password holds the signs that end it.

Options are never shown. What a client says of an error may repeat them, so in its text each value
becomes ``***``: text of four characters and more wherever it stands, shorter text, numbers and
switches where they stand as a word of their own. The values of the names in `HARMLESS` stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from numbers import Number
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
HARMLESS = frozenset(
    (
        *("anon", "use_ssl", "ssl", "protocol", "scheme", "host", "hostname", "port", "timeout"),
        *("endpoint", "endpoint_url", "endpoint_override", "region", "region_name"),
        *("project", "project_id", "account_name", "account_host", "requester_pays"),
        *("accountname", "defaultendpointsprotocol", "endpointsuffix", "blobendpoint"),
        *("connect_timeout", "read_timeout", "requests_timeout", "max_attempts", "retries", "mode"),
        *("signature_version", "addressing_style", "max_concurrency", "max_pool_connections"),
        *("block_size", "default_block_size", "default_cache_type", "default_fill_cache"),
        *("use_listings_cache", "skip_instance_cache", "asynchronous", "auto_mkdir"),
        *("version_aware", "consistency"),
    )
)
"""Names of options, in small letters, whose values are no secrets but for the parts of a URL."""
SHORT = 4
"""Text of fewer characters may be a part of other words."""

PATHS = ("file", "local")
"""Schemes behind which a path stands, with no query."""
CHAINED = ("zip", "tar", "libarchive", "dir", "reference", "generic")
"""Schemes behind which a file in another one stands, as in zip://a.npy::s3://bucket/a.zip."""
BUCKETS = ("s3", "s3a", "gs", "gcs", "memory", "hf", *PATHS)
"""Schemes behind which the name of a bucket stands: an '@' in the path is none of a password."""
SCHEME = r"([A-Za-z][A-Za-z0-9+.-]{0,20}):(?:\\?/){2}"
_SCHEME = re.compile(SCHEME)
_START = re.compile(rf"(?:[\w+.-]{{1,20}}::)*{SCHEME}")
_HOST = re.compile(r"[^:@\[\]]*(:\d+\\?)?|\[[0-9A-Fa-f:.]+\](:\d*)?\\?|arn:[a-z0-9:-]+")


class _Value(NamedTuple):
    """Text that is not to be shown."""

    text: str
    is_word: bool = False
    """It is hidden where it is a whole word alone, however long it is."""


def shown(url: str) -> str:
    """Return a URL, or a chain of them, without what may be a secret; a path as it is."""
    found = list(_SCHEME.finditer(url))
    if not found:
        return url
    pieces = [url[: found[0].start()]]
    ends = [each.start() for each in found[1:]] + [len(url)]
    for each, end in zip(found, ends, strict=True):
        scheme, text = each[1].lower(), url[each.end() : end]
        link = ""
        if scheme in CHAINED and "@" not in text:
            text, link, others = text.partition("::")
            link += others
        place, is_last = _place(scheme, text, url[each.end() :])
        pieces += [each[0], place, link]
        if is_last:
            break
    return "".join(pieces)


def _place(scheme: str, text: str, to_the_end: str) -> tuple[str, bool]:
    """Return what is shown behind a scheme, and whether nothing is after it."""
    if scheme in PATHS:
        return text, False
    cut = re.search(r"[?#]", text)
    if cut is not None and "@" in to_the_end[cut.start() :]:
        return HIDDEN, True  # of a password, or in a query
    place = _host_and_path(scheme, text[: cut.start()] if cut else text)
    is_last = cut is not None or place == HIDDEN
    return (f"{place}{cut[0]}{HIDDEN}" if cut else place), is_last


def _host_and_path(scheme: str, text: str) -> str:
    host = text.partition("/")[0]
    _, at, place = text.rpartition("@")
    if at and ("@" in host or not _is_surely_host(scheme, host)):
        host = place.partition("/")[0]
        return f"{HIDDEN}@{place}" if _HOST.fullmatch(host) else HIDDEN
    return text if _HOST.fullmatch(host) else HIDDEN


def _is_surely_host(scheme: str, text: str) -> bool:
    """Tell whether text before a slash is no user, with a password that holds the slash."""
    if ":" in text:
        return False
    return scheme in BUCKETS or "." in text or text == "localhost"


def redacted(text: str, options: Mapping[str, Any] | None = None, url: str = "") -> str:
    """Return a text without what may be a secret of the URLs in it, of options and of a URL."""
    if "://" in url:  # it may hold spaces, with which a URL ends elsewhere
        for written in (url, repr(url)[1:-1]):
            text = text.replace(written, shown(url))
    pieces, at = [], 0
    while start := _START.search(text, at):
        end = _end_of_url(text, start)
        pieces += [text[at : start.start()], shown(text[start.start() : end])]
        at = end
    return _without({*_values(options or {}), *_parts_of_url(url)}, "".join([*pieces, text[at:]]))


def _end_of_url(text: str, start: re.Match[str]) -> int:
    """Return where a URL ends: with the quotation mark before it, else with a space."""
    before = text[start.start() - 1] if start.start() else ""
    ends = rf"(?<!\\){before}" if before and before in "'\"`" else r"\s"
    end = re.compile(ends).search(text, start.end())
    return end.start() if end else len(text)


def _without(values: Set[_Value], text: str) -> str:
    patterns = []
    for value in sorted(values, key=lambda value: len(value.text), reverse=True):
        pattern = re.escape(value.text)
        if value.is_word or len(value.text) < SHORT:
            pattern = rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
        if value.text.strip():
            patterns.append(pattern)
    return re.sub("|".join(patterns), HIDDEN, text) if patterns else text


def _values(options: Any, name: str = "") -> Iterator[_Value]:
    """Yield the text of all values, however deep, but for those that are harmless by their name."""
    if isinstance(options, Mapping):
        for each, value in options.items():
            yield from _values(value, str(each))
    elif isinstance(options, list | tuple | set | frozenset):
        for value in options:
            yield from _values(value)
    elif name.lower() in HARMLESS:
        yield from _parts_of_url(str(options))
    elif isinstance(options, bytes | bytearray):
        yield from _forms(bytes(options).decode(errors="replace"))
        yield from (_Value(each) for each in (repr(bytes(options))[2:-1], options.hex()))
    elif isinstance(options, str):
        yield from _parts(options)
    elif isinstance(options, Number):  # switches too
        yield _Value(str(options), is_word=True)
    elif options is not None:
        yield from _inside(options)


def _inside(held: Any) -> Iterator[_Value]:
    """Yield what an object says of itself, and what it holds as plain values."""
    yield from (_Value(str(held)), _Value(repr(held)))
    for value in getattr(held, "__dict__", {}).values():
        if isinstance(value, str | bytes | Number | Mapping | list | tuple | Set):
            yield from _values(value)


def _parts(value: str) -> Iterator[_Value]:
    """Yield a text, and what is in one of several: "AccountName=n;AccountKey=k", "Bearer t", JSON.

    Connection strings are told by their ';'.
    """
    yield from _forms(value)
    if ";" in value:
        for part in value.split(";"):
            name, _, secret = part.partition("=")
            yield from _values(secret, name)
    for part in value.split():
        yield from _forms(part)
    if value.lstrip()[:1] in ("{", "["):
        try:
            yield from _values(json.loads(value))
        except (ValueError, RecursionError):
            return


def _forms(value: str) -> Iterator[_Value]:
    """Yield a text as it is, and as URLs, JSON and Python write it."""
    try:
        quoted = [quote(value), quote(value, safe=""), quote_plus(value)]
    except UnicodeEncodeError:
        quoted = []
    written = [value, repr(value)[1:-1], json.dumps(value)[1:-1]]
    yield from map(_Value, {*written, *quoted})


def _parts_of_url(url: str) -> Iterator[_Value]:
    """Yield what is not shown of a URL, as it is and decoded."""
    for start in _SCHEME.finditer(url):
        rest = url[start.end() :]
        if start[1].lower() in PATHS or shown(url) == url:
            continue
        place, _, query = rest.partition("?")
        user, at, _ = (place if "@" in place else rest).rpartition("@")
        name, _, password = user.partition(":")
        secrets = [password if at else "", query, *re.split(r"[&=#]", query)[1::2]]
        secrets.append(place.partition("#")[2])
        for each in secrets:
            yield from _forms(each)
            yield from map(_Value, (unquote(each), unquote_plus(each)))
        for part in re.split(r"[/?#@:]", password if at else ""):  # what cuts a URL cuts it, too
            yield from (_Value(each, is_word=True) for each in (part, unquote(part)))
        if at:
            yield from (_Value(each, is_word=True) for each in (name, unquote(name)))
