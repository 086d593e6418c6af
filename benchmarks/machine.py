"""Where a benchmark ran, in the line that stands above its table."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path


def say_where(*packages: str) -> int:
    """Print machine and versions; return the number of threads."""
    threads = os.cpu_count() or 1
    versions = "".join(f", {name} {version(name)}" for name in packages)
    print(f"{cpu_name()}, {threads} threads, {platform.python_version()}{versions}\n")
    return threads


def cpu_name() -> str:
    """Return the processor's name as its maker gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
