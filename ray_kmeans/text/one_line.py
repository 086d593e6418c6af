"""Show names that others gave in one line, whatever characters they hold.

The name of a file, a column or a metric may hold a newline, which would forge a line of a log, or a
mark that reverses the text around it. Such characters are shown as Python writes them, as \\n or
\\u202e. Importing this module does so for every message of the logger "ray_kmeans".
"""

from __future__ import annotations

import logging


def in_one_line(text: str) -> str:
    """Return a text whose unprintable characters are escaped.

    >>> in_one_line("a name"), in_one_line("forged\\nERROR")
    ('a name', 'forged\\\\nERROR')
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    """Return one character as Python writes it in a string literal."""
    return character.encode("unicode_escape").decode()


def _keep_in_one_line(record: logging.LogRecord) -> bool:
    """Put the message of a record into one line, for all handlers; keep every record."""
    record.msg, record.args = in_one_line(record.getMessage()), ()
    return True


logging.getLogger("ray_kmeans").addFilter(_keep_in_one_line)
