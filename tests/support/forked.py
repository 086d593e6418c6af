"""Processes that begin in milliseconds: forked from a server that has imported what they need."""

from __future__ import annotations

import multiprocessing

FORKED = multiprocessing.get_context("forkserver")
"""Starts processes, each by a function of a module that can be imported."""
FORKED.set_forkserver_preload(["s3fs", "gcsfs", "adlfs", "tests.support.saving"])
