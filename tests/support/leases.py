"""Hold a lease as a process of another machine would, and read the epochs of a place."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from threading import Thread

from ray_kmeans.io import publish


def epochs(place):
    place.fs.invalidate_cache()
    try:
        found = place.fs.ls(f"{place.path}/lease", False)
    except FileNotFoundError:
        found = []
    return sorted(path.rsplit("/", 1)[-1] for path in found if path.endswith(".json"))


def put(place, name, **values):
    data = json.dumps(values).encode()
    publish.put(place.fs, f"{place.path}/lease/{name}", data)


def held_elsewhere(place, beat=0, **more):
    """Let a process of another machine hold the lease, which gives no sign of life by itself."""
    values = {"owner": "o", "nonce": "n", "what": "fit", "host": "node-3", "pid": 12}
    put(
        place,
        "00000001.json",
        **{**values, "machine": "another", "started": 5, "beat": beat, "runs_for_s": 100.4, **more},
    )


@contextmanager
def beating(place, every_s=0.1):
    """Let the process of another machine give signs of life."""
    ended = []

    def beat():
        number = 0
        while not ended:
            number += 1
            held_elsewhere(place, number)
            time.sleep(every_s)

    held_elsewhere(place)
    thread = Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.append(True)
        thread.join()
