"""Take secrets out of text that people see: of URLs, and of values of storage options.

A URL keeps scheme, host, port and path. User info, query, fragment and parameters (behind a ';',
except in the key of an object) become ``***``. So does every URL that can be read in two ways, such
as one whose password holds the signs that end a password. A URL that lacks a sign behind its scheme
is read as if it were there.

Storage options are never shown. The text of a client's error may repeat them, so each of their
values becomes ``***`` there: text of at least `SHORT` characters wherever it stands, and shorter
text, numbers and switches where they are whole words. Values of the names in `HARMLESS` stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from numbers import Number
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
"""Text that stands in place of a secret."""
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
"""Names of options, in lower case, whose values are no secrets, except inside a URL."""
SHORT = 4
"""Number of characters below which a secret is hidden as a whole word only."""

PATHS = ("file", "local")
"""Schemes of local paths, which have neither user nor query."""
CHAINED = ("zip", "tar", "libarchive", "dir", "reference", "generic")
"""Schemes that name a file inside another one, as in zip://a.npy::s3://bucket/a.zip."""
BUCKETS = ("s3", "s3a", "gs", "gcs", "memory", "hf", *PATHS)
"""Schemes followed by the name of a bucket: an '@' in the path belongs to no password."""
SCHEME = r"([A-Za-z][A-Za-z0-9+.-]{0,20}):(?:\\?/){2}"
"""Pattern of a scheme and its slashes, which JSON may write with backslashes."""
_SCHEME = re.compile(SCHEME)
"""The same, compiled."""
_MISTYPED = re.compile(r"(https?|s3a?|gs|gcs|abfss?|s?ftp|webhdfs|hdfs|hf)(?::/(?!/)|//)", re.I)
"""Pattern of a scheme that a sign is missing behind, as in s3:/bucket and https//host."""
_START = re.compile(rf"(?:[\w+.-]{{1,20}}::)*{SCHEME}")
"""Pattern of the beginning of a URL or of a chain of URLs inside a text."""
_HOST = re.compile(r"[^:@\[\]]*(:\d+\\?)?|\[[0-9A-Fa-f:.]+\](:\d*)?\\?|arn:[a-z0-9:-]+")
"""Pattern of a host with or without a port, an IPv6 address, or an Amazon resource name."""


class _Value(NamedTuple):
    """A text that must not be shown."""

    text: str
    """The secret, as it may stand in a message."""
    is_word: bool = False
    """Whether it is hidden only where it is a whole word, however long it is."""


def shown(url: str) -> str:
    """Return a URL, or a chain of URLs, without possible secrets; a path unchanged."""
    found = list(_SCHEME.finditer(url))
    mistyped = _MISTYPED.match(url)
    if mistyped:
        place, _ = _place(mistyped[1].lower(), url[mistyped.end() :], url[mistyped.end() :])
        return f"{mistyped[0]}{place}"
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
    """Return the text to show after a scheme, and whether the rest of the URL is left out.

    `to_the_end` is all that follows the scheme, and `text` the part of it up to the next scheme.
    """
    if scheme in PATHS:
        return text, False
    cut = re.search(r"[?#]" if scheme in BUCKETS else r"[?#;]", text)
    if cut is not None and "@" in to_the_end[cut.start() :]:
        return HIDDEN, True  # the '@' may end a password, or stand in a query
    place = _host_and_path(scheme, text[: cut.start()] if cut else text)
    is_last = cut is not None or place == HIDDEN
    return (f"{place}{cut[0]}{HIDDEN}" if cut else place), is_last


def _host_and_path(scheme: str, text: str) -> str:
    """Return host and path of a URL without user info; `HIDDEN` if they cannot be told apart."""
    host = text.partition("/")[0]
    _, at, place = text.rpartition("@")
    if at and ("@" in host or not _is_surely_host(scheme, host)):
        host = place.partition("/")[0]
        return f"{HIDDEN}@{place}" if _HOST.fullmatch(host) else HIDDEN
    return text if _HOST.fullmatch(host) else HIDDEN


def _is_surely_host(scheme: str, text: str) -> bool:
    """Tell whether the text before a slash is a host, not a user whose password has a slash."""
    if ":" in text:
        return False
    return scheme in BUCKETS or "." in text or text == "localhost"


def redacted(text: str, options: Mapping[str, Any] | None = None, url: str = "") -> str:
    """Return a text without the possible secrets of URLs in it, of `options` and of `url`."""
    if shown(url) != url:  # it may hold spaces, at which any other URL in the text ends
        for written in (url, repr(url)[1:-1]):
            text = text.replace(written, shown(url))
    pieces, at = [], 0
    while start := _START.search(text, at):
        end = _end_of_url(text, start)
        pieces += [text[at : start.start()], shown(text[start.start() : end])]
        at = end
    return _hide({*_values(options or {}), *_parts_of_url(url)}, "".join([*pieces, text[at:]]))


def _end_of_url(text: str, start: re.Match[str]) -> int:
    """Return the offset where a URL in a text ends: at its quotation mark, else at a space."""
    before = text[start.start() - 1] if start.start() else ""
    ends = rf"(?<!\\){before}" if before and before in "'\"`" else r"\s"
    end = re.compile(ends).search(text, start.end())
    return end.start() if end else len(text)


def _hide(values: Set[_Value], text: str) -> str:
    """Return a text with `HIDDEN` for each secret, the longest ones first."""
    patterns = []
    for value in sorted(values, key=lambda value: len(value.text), reverse=True):
        pattern = re.escape(value.text)
        if value.is_word or len(value.text) < SHORT:
            pattern = rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
        if value.text.strip():
            patterns.append(pattern)
    return re.sub("|".join(patterns), HIDDEN, text) if patterns else text


def _values(options: Any, name: str = "") -> Iterator[_Value]:
    """Yield all values inside options, however deep, except those of harmless names."""
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
    elif isinstance(options, Number):  # True and False, too
        yield _Value(str(options), is_word=True)
    elif options is not None:
        yield from _values_of_object(options)


def _values_of_object(credential: Any) -> Iterator[_Value]:
    """Yield how an object is printed, and the plain values of its attributes."""
    yield from (_Value(str(credential)), _Value(repr(credential)))
    for value in getattr(credential, "__dict__", {}).values():
        if isinstance(value, str | bytes | Number | Mapping | list | tuple | Set):
            yield from _values(value)


def _parts(value: str) -> Iterator[_Value]:
    """Yield a text and its parts: of a connection string (with ';'), of "Bearer t", of JSON."""
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
    """Yield a text unchanged, and as URLs, JSON and Python would write it."""
    try:
        quoted = [quote(value), quote(value, safe=""), quote_plus(value)]
    except UnicodeEncodeError:
        quoted = []
    written = [value, repr(value)[1:-1], json.dumps(value)[1:-1]]
    yield from map(_Value, {*written, *quoted})


def _parts_of_url(url: str) -> Iterator[_Value]:
    """Yield the parts of a URL that `shown` hides, unchanged and decoded."""
    mistyped = _MISTYPED.match(url)
    for start in [mistyped] if mistyped else _SCHEME.finditer(url):
        rest = url[start.end() :]
        if start[1].lower() in PATHS or shown(url) == url:
            continue
        place, _, query = rest.partition("?")
        user, at, _ = (place if "@" in place else rest).rpartition("@")
        name, _, password = user.partition(":")
        secrets = [password if at else "", query, *re.split(r"[&=#]", query)[1::2]]
        secrets.append(place.partition("#")[2])
        if start[1].lower() not in BUCKETS:
            secrets += [place.partition(";")[2], *re.split(r"[;=]", place.partition(";")[2])[1::2]]
        for each in secrets:
            yield from _forms(each)
            yield from map(_Value, (unquote(each), unquote_plus(each)))
        for part in re.split(r"[/?#@:]", password if at else ""):  # a client cuts it there, too
            yield from (_Value(each, is_word=True) for each in (part, unquote(part)))
        if at:
            yield from (_Value(each, is_word=True) for each in (name, unquote(name)))
