"""Two minutes of random faults; `python tests/support/soak.py` makes it an hour."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROOT = Path(__file__).parents[2]


def test_two_minutes_of_random_faults_change_nothing():
    done = subprocess.run(
        [sys.executable, "tests/support/soak.py", "--minutes", "2", "--seed", "0", "--lanes", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,  # the fit under way at the end is finished
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    counted = {key: int(n) for key, n in re.findall(r"^(\w+): (\d+)$", done.stdout, re.MULTILINE)}
    assert counted["differences"] == 0
    assert counted["fits"] >= 1
    assert counted["faults"] >= 1
