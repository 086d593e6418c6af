"""A replica: holds one model, and answers the requests of a moment together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from ray_kmeans.algorithm.precision import less
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.columns import to_float32
from ray_kmeans.errors import ConfigError, DataError, RayKMeansError
from ray_kmeans.serving import requests
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.text.one_line import in_one_line
from ray_kmeans.workflows.predict import (
    CLUSTER_IDX,
    DISTANCE,
    Batch,
    ReadyModel,
)
from ray_kmeans.workflows.validation import a_path

log = logging.getLogger("ray_kmeans")

METHODS = {"Allow": "GET, POST"}
TOO_LARGE = 413
BODY_S = 30.0
"""Time for a client to send a body."""
NUMBER_BYTES = 64
"""What a number takes as text at most, with generous spaces."""


class Nearest:
    """Answers with the nearest center of each row, by a model that can be exchanged meanwhile."""

    def __init__(self, store: ModelDir, max_rows: int, max_batch_size: int, wait_s: float) -> None:
        self._store = store
        self._max_rows = max_rows
        self._most = max_rows * max_batch_size
        self._state: FitState | None = None
        self._refused: str | None = None
        together = serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=wait_s)
        self._label: Any = together(self.label_together)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take the model of a checkpoint: the next batch is labelled by it.

        A replica keeps the model that it has where that cannot be, logs why and tells it by GET, as
        Serve ends replicas that raise here, all of them. One that only starts raises.
        """
        self._refused = None
        try:
            self._take(user_config)
        except RayKMeansError as error:
            if self._state is None:
                raise
            self._refused = str(error)
            log.warning("the model stays that of iteration %d: %s", self._state.iteration, error)

    def _take(self, user_config: Mapping[str, Any]) -> None:
        if set(user_config) != {"checkpoint_path"}:
            raise ConfigError(
                f"user_config={dict(user_config)!r} must be {{'checkpoint_path': ...}}, one of "
                f"{[path.rsplit('/', 1)[-1] for path in self._store.checkpoints()]}."
            )
        state = self._store.fitted(a_path("checkpoint_path", user_config["checkpoint_path"]))
        width = state.centers.shape[1]
        if self._state is not None and width != self._features:
            raise ConfigError(
                f"{user_config['checkpoint_path']!r} has {width} features and the model that is "
                f"served {self._features}. Start another application for it."
            )
        model = ReadyModel(state, (CLUSTER_IDX, DISTANCE))
        model.get_ready(self._most)
        self._state, self._model = state, model

    def check_health(self) -> None:
        """Raise RuntimeError unless the first center is nearest to itself."""
        found = self._model(self._served.centers[:1])[CLUSTER_IDX][0]
        if found != 0:
            raise RuntimeError(f"the kernel labels center 0 as {found}: this replica must restart.")

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer a request by HTTP; what is wrong with it is said with a status of 4xx."""
        if request.method == "GET":
            return JSONResponse(self.about())
        if request.method != "POST":
            return refused(405, f"{request.method} is not known. Send POST or GET.", METHODS)
        most = NUMBER_BYTES * (self._max_rows * self._features + 1)
        try:
            reading = requests.body_of(request.stream(), request.headers, most)
            given = requests.listed(await asyncio.wait_for(reading, BODY_S))
            if len(given) > self._max_rows:
                return refused(413, f"the request has {len(given):,} rows: {self._too_many()}")
            answer = await self._label(requests.as_rows(given, self._features, self._served.shift))
        except requests.Refusal as error:
            more = f": {self._too_many()}" if error.status == TOO_LARGE else ""
            return refused(error.status, f"{error.why}{more}")
        except asyncio.TimeoutError:
            return refused(408, f"the body has not come within {BODY_S:g} s. Send it again.")
        except ClientDisconnect:
            return refused(400, "the client has gone.")  # nobody reads it
        except DataError as error:
            return refused(400, str(error))
        return JSONResponse({name: as_json(values) for name, values in answer.items()})

    async def label(self, rows: NDArray[Any]) -> Batch:
        """Return 'cluster_idx' and 'distance' of rows (n, d), to another deployment."""
        values = np.asarray(rows)
        if values.shape[1:] == (self._features,):  # else it is refused below
            values = less(values, self._served.shift)
        given = requests.checked(to_float32(values, "the rows"), self._features)
        answer: Batch = await self._label(given)
        return answer

    async def label_together(self, parts: list[NDArray[np.float32]]) -> list[Batch]:
        """Label the rows of some requests by one pass, in a thread: others come in meanwhile."""
        answers = await asyncio.to_thread(self._model, np.concatenate(parts))
        cuts = np.cumsum([len(rows) for rows in parts])[:-1]
        split = {name: np.split(values, cuts) for name, values in answers.items()}
        return [{name: split[name][n] for name in split} for n in range(len(parts))]

    def about(self) -> dict[str, Any]:
        """Return which model answers, and why it is not the one that was asked for, if so."""
        state = self._served
        refused = {} if self._refused is None else {"refused": self._refused}
        return {
            "model_dir": in_one_line(self._store.shown),
            "iteration": state.iteration,
            "num_clusters": len(state.centers),
            "num_features": self._features,
            "distance_metric": str(state.metric),
            "max_rows": self._max_rows,
            **refused,
        }

    def _too_many(self) -> str:
        return f"{self._max_rows:,} rows may be in one. Send several requests."

    @property
    def _served(self) -> FitState:
        if self._state is None:
            raise RuntimeError("this replica has no model: Serve gives it by user_config")
        return self._state

    @property
    def _features(self) -> int:
        return int(self._served.centers.shape[1])


def refused(status: int, why: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an answer that says what is wrong with a request."""
    most = requests.LONGEST
    said = why if len(why) <= most else f"{why[:most]}..."
    return JSONResponse({"error": said}, status, headers)


def as_json(values: NDArray[Any]) -> list[Any]:
    """Return the values as a list, with null for a distance beyond float32."""
    return [None if value == np.inf else value for value in values.tolist()]


deployment = serve.deployment(Nearest)
