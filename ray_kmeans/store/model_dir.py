"""The model's directory: numbered checkpoints, each visible once its manifest is.

checkpoints/00000003-iteration-12.json         manifest: the commit point, written last
checkpoints/data/00000003-<id>/*.npy           the arrays of the state; names are never reused
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.clustering.state import FitState, Iteration, Running, Stop
from ray_kmeans.errors import CheckpointError, ModelMismatchError, NotFittedError
from ray_kmeans.remote import redacted
from ray_kmeans.store import publish

FORMAT = 2
LINE = np.dtype(
    [
        ("iteration", "<i8"),
        ("rows", "<i8"),
        ("inertia", "<f8"),
        ("shift", "<f8"),
        ("empty", "<i8"),
        ("digest", "S16"),
    ]
)
"""A line of the history, as it is stored."""


@dataclass(frozen=True, repr=False)
class ModelDir(publish.Place):
    """Checkpoints under one URL."""

    keep: int = 5
    """Newest checkpoints that stay when one is saved."""

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any], keep: int) -> ModelDir:
        """Return the directory under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options, keep)

    def latest(self) -> FitState | None:
        """Return the newest state; None where there is none.

        Raises CheckpointError where the newest checkpoint is damaged: that is never passed over.
        """
        with self.said(f"model_dir={self.shown!r} cannot be read"):
            paths = self._manifests()
            return self._load(paths[-1]) if paths else None

    def save(self, state: FitState) -> str:
        """Publish a state and return the path of its manifest; delete what is older than `keep`."""
        manifests = self._manifests()
        number = _number(manifests[-1]) + 1 if manifests else 0
        path = f"{self._root}/{number:08d}-iteration-{state.iteration}.json"
        data = f"data/{number:08d}-{uuid.uuid4().hex[:8]}"
        blobs = {f"{data}/{name}.npy": _npy(array) for name, array in _arrays(state).items()}
        running = state.running
        manifest = {
            "format": FORMAT,
            "distance_metric": state.metric,
            "num_clusters": len(state.centers),
            "num_features": state.centers.shape[1],
            "iteration": state.iteration,
            "began": state.began,
            "stop": state.stop.name if state.stop else None,
            "data": state.data,
            "asked": state.asked,
            "data_since": state.data_since,
            "mini_batch": [running.steps_per_iteration, running.done] if running else None,
            "files": {n: {"size": len(b), "sha256": publish.sha256(b)} for n, b in blobs.items()},
        }
        with self.said(f"cannot save a checkpoint to {self.shown!r}"):
            for name, content in blobs.items():
                publish.put(self.fs, f"{self._root}/{name}", content)
            publish.put(self.fs, path, publish.seal(manifest))
            self._delete_old()
        return path

    def fitted(self, checkpoint: str | None = None) -> FitState:
        """Return the newest state, or that of a checkpoint; NotFittedError where there is none."""
        state = self.latest() if checkpoint is None else self._of(checkpoint)
        if state is None:
            raise NotFittedError(f"there is no model in {self.shown!r}. Call fit first.")
        return state

    def checkpoints(self) -> list[str]:
        """Return the URLs of all checkpoints, the oldest first."""
        with self.said(f"model_dir={self.shown!r} cannot be read"):
            return [f"{self.url.rstrip('/')}/checkpoints/{_name(p)}" for p in self._manifests()]

    def matching(
        self, num_clusters: int, metric: str, num_features: int | None = None
    ) -> FitState | None:
        """Return the newest state, if any; `num_features` None: not known yet.

        Raises ModelMismatchError for a model of another kind.
        """
        found = self.latest()
        if found is not None:
            k, d = found.centers.shape
            asked = num_clusters, d if num_features is None else num_features, metric
            if (k, d, found.metric) != asked:
                sentence = "{} clusters of {} features by {} distance"
                raise ModelMismatchError(
                    self.shown, sentence.format(k, d, found.metric), sentence.format(*asked)
                )
        return found

    def check_writable(self) -> None:
        """Raise StoreError if nothing can be written."""
        probe = f"{self._root}/probe-{uuid.uuid4().hex[:8]}"
        with self.said(f"model_dir={self.shown!r} cannot be written"):
            publish.put(self.fs, probe, b"may I write here?")
            self.fs.rm_file(probe)

    @property
    def _root(self) -> str:
        return f"{super()._root}/checkpoints"

    def _manifests(self) -> list[str]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(self._root, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path for path in found if path.endswith(".json"))

    def _of(self, checkpoint: str) -> FitState:
        """Return the state of a checkpoint: its file name here, or a path or URL anywhere."""
        home = checkpoint.rpartition("/checkpoints/")[0]
        if home and "://" not in home:
            home = str(self.fs.unstrip_protocol(home))
        place = replace(self, url=home) if home else self
        with self.said(f"checkpoint_path={checkpoint!r} cannot be read"):
            there = {_name(path): path for path in place._manifests()}
            if _name(checkpoint) not in there:
                raise NotFittedError(
                    f"checkpoint_path={redacted(checkpoint)!r} does not exist; {place.shown!r} has "
                    f"{list(there)}."
                )
            return place._load(there[_name(checkpoint)])

    def _load(self, path: str) -> FitState:
        manifest = publish.unseal(self.fs.cat_file(path))
        if manifest is None:
            raise CheckpointError(path, "the manifest is not what was written")
        if manifest["format"] != FORMAT:
            raise CheckpointError(path, f"its format is {manifest['format']}, not {FORMAT}")
        arrays = {}
        for name, expected in manifest["files"].items():
            try:
                content = self.fs.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                raise CheckpointError(path, f"{name} is missing") from None
            if publish.sha256(content) != expected["sha256"]:
                raise CheckpointError(path, f"{name} is not what was written")
            arrays[name.rsplit("/", 1)[-1].removesuffix(".npy")] = np.load(
                io.BytesIO(content), allow_pickle=False
            )
        lines = arrays["history"].tolist()
        running = manifest["mini_batch"]
        return FitState(
            centers=arrays["centers"],
            counts=arrays["counts"],
            metric=manifest["distance_metric"],
            iteration=manifest["iteration"],
            began=manifest["began"],
            history=tuple(_line(*line) for line in lines),
            stop=Stop[manifest["stop"]] if manifest["stop"] else None,
            data=manifest["data"],
            asked=manifest["asked"],
            data_since=manifest["data_since"],
            running=_running(running, arrays) if running else None,
        )

    def _delete_old(self) -> None:
        """Delete manifests first, so that a reader never finds one without its data."""
        manifests = self._manifests()
        for path in manifests[: -self.keep]:
            self.fs.rm_file(path)
        oldest = _number(manifests[-self.keep :][0])
        for folder in self.fs.ls(f"{self._root}/data", detail=False):
            if _number(folder) < oldest:  # also what a killed save has left behind
                self.fs.rm(folder, recursive=True)


def _arrays(state: FitState) -> dict[str, NDArray[Any]]:
    history = np.array([astuple(line) for line in state.history], LINE)
    arrays: dict[str, NDArray[Any]] = {
        "centers": state.centers,
        "counts": state.counts,
        "history": history,
    }
    if state.running and state.counts.any():  # else the sums are zero
        arrays["sums"] = state.running.sums
    return arrays


def _running(described: list[int], arrays: Mapping[str, NDArray[Any]]) -> Running:
    steps_per_iteration, done = described
    zero = np.zeros((2, *arrays["centers"].shape))
    return Running(steps_per_iteration, done, arrays.get("sums", zero))


def _line(iteration: int, rows: int, *measured: Any) -> Iteration:
    inertia, shift, empty, digest = measured
    return Iteration(iteration, rows, inertia, shift, empty, digest.decode())


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _number(path: str) -> int:
    return int(_name(path)[:8])


def _npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()
