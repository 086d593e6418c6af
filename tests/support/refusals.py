"""Name the parameters of tests, the same in every process."""

from __future__ import annotations

import re


def named(value):
    """Name a parameter, the same in every process."""
    return re.sub(r" at 0x\w+", "", str(value))
