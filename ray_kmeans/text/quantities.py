"""Write numbers and sizes as people read them."""

from __future__ import annotations

BYTE_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
"""Units of a size, each 1024 times the one before."""


def format_bytes(size: float) -> str:
    """Return a number of bytes in the largest unit of which there is at least one.

    >>> format_bytes(512), format_bytes(1536), format_bytes(3 * 2**40)
    ('512 bytes', '1.5 KiB', '3.0 TiB')
    """
    for unit in BYTE_UNITS:
        if size < 1024 or unit == BYTE_UNITS[-1]:
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == BYTE_UNITS[0] else f"{size:,.1f} {unit}"


def format_number(number: float) -> str:
    """Return a whole number with thousands separators, any other one with six digits.

    >>> format_number(6000), format_number(4678.0213), format_number(2.5e-7)
    ('6,000', '4,678.02', '2.5e-07')
    """
    return f"{number:,}" if isinstance(number, int) else f"{number:,.6g}"


def in_words(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one.

    >>> in_words(1, "worker"), in_words(6000, "row")
    ('1 worker', '6,000 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
