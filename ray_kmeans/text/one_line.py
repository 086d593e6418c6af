"""How names that others gave are shown: in one line, whatever they hold.

A name of a file, a column or a metric may hold a newline, which forges a line of a log, or what
turns the text around it. Such a character is shown as Python writes it: as \\n, or \\u202e.
"""

from __future__ import annotations

import logging


def in_one_line(text: str) -> str:
    """Return the text with every character escaped that is not printed as itself.

    >>> in_one_line("a name"), in_one_line("forged\\nERROR")
    ('a name', 'forged\\\\nERROR')
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _keep_in_one_line(record: logging.LogRecord) -> bool:
    """Write the message of a record in one line, for all handlers that it goes to."""
    record.msg, record.args = in_one_line(record.getMessage()), ()
    return True


logging.getLogger("ray_kmeans").addFilter(_keep_in_one_line)
