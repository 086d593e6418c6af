"""The model's directory: numbered checkpoints, each visible once its manifest is.

checkpoints/00000003-iteration-12.json         manifest: the commit point, written last
checkpoints/data/00000003-<id>/*.npy           centers and counts; names are never reused
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.clustering.lloyd import FitState, Iteration, Stop
from ray_kmeans.errors import CheckpointError, ModelMismatchError, NotFittedError
from ray_kmeans.store import publish

FORMAT = 1


@dataclass(frozen=True)
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
        with publish.said(f"model_dir={self.url!r} cannot be read"):
            paths = self._manifests()
            return self._load(paths[-1]) if paths else None

    def save(self, state: FitState) -> str:
        """Publish a state and return the path of its manifest; delete what is older than `keep`."""
        manifests = self._manifests()
        number = _number(manifests[-1]) + 1 if manifests else 0
        path = f"{self._root}/{number:08d}-iteration-{state.iteration}.json"
        data = f"data/{number:08d}-{uuid.uuid4().hex[:8]}"
        blobs = {
            f"{data}/centers.npy": _npy(state.centers),
            f"{data}/counts.npy": _npy(state.counts),
        }
        manifest = {
            "format": FORMAT,
            "distance_metric": "squared_euclidean",
            "num_clusters": len(state.centers),
            "num_features": state.centers.shape[1],
            "iteration": state.iteration,
            "began": state.began,
            "stop": state.stop.name if state.stop else None,
            "data": state.data,
            "history": [asdict(line) for line in state.history],
            "files": {n: {"size": len(b), "sha256": publish.sha256(b)} for n, b in blobs.items()},
        }
        with publish.said(f"cannot save a checkpoint to {self.url!r}"):
            for name, content in blobs.items():
                publish.put(self._fs, f"{self._root}/{name}", content)
            publish.put(self._fs, path, publish.seal(manifest))
            self._delete_old()
        return path

    def fitted(self) -> FitState:
        """Return the newest state; NotFittedError where there is none."""
        state = self.latest()
        if state is None:
            raise NotFittedError(f"there is no model in {self.url!r}. Call fit first.")
        return state

    def check(self, num_clusters: int, num_features: int) -> FitState | None:
        """Return the newest state, if any.

        Raises StoreError if nothing can be written, ModelMismatchError for another model in it.
        """
        found = self.latest()
        if found is not None and found.centers.shape != (num_clusters, num_features):
            k, d = found.centers.shape
            raise ModelMismatchError(
                self.url, f"{k} clusters of {d} features", f"{num_clusters} of {num_features}"
            )
        probe = f"{self._root}/probe-{uuid.uuid4().hex[:8]}"
        with publish.said(f"model_dir={self.url!r} cannot be written"):
            publish.put(self._fs, probe, b"may I write here?")
            self._fs.rm_file(probe)
        return found

    @property
    def _root(self) -> str:
        return f"{super()._root}/checkpoints"

    def _manifests(self) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path for path in found if path.endswith(".json"))

    def _load(self, path: str) -> FitState:
        manifest = publish.unseal(self._fs.cat_file(path))
        if manifest is None:
            raise CheckpointError(path, "the manifest is not what was written")
        if manifest["format"] != FORMAT:
            raise CheckpointError(path, f"its format is {manifest['format']}, not {FORMAT}")
        arrays = {}
        for name, expected in manifest["files"].items():
            try:
                content = self._fs.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                raise CheckpointError(path, f"{name} is missing") from None
            if publish.sha256(content) != expected["sha256"]:
                raise CheckpointError(path, f"{name} is not what was written")
            arrays[name.rsplit("/", 1)[-1]] = np.load(io.BytesIO(content), allow_pickle=False)
        return FitState(
            centers=arrays["centers.npy"],
            counts=arrays["counts.npy"],
            iteration=manifest["iteration"],
            began=manifest["began"],
            history=tuple(Iteration(**line) for line in manifest["history"]),
            stop=Stop[manifest["stop"]] if manifest["stop"] else None,
            data=manifest["data"],
        )

    def _delete_old(self) -> None:
        """Delete manifests first, so that a reader never finds one without its data."""
        manifests = self._manifests()
        for path in manifests[: -self.keep]:
            self._fs.rm_file(path)
        oldest = _number(manifests[-self.keep :][0])
        for folder in self._fs.ls(f"{self._root}/data", detail=False):
            if _number(folder) < oldest:  # also what a killed save has left behind
                self._fs.rm(folder, recursive=True)


def _number(path: str) -> int:
    return int(path.rstrip("/").rsplit("/", 1)[-1][:8])


def _npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()
