"""A replica of the application: it holds one model and answers several requests at once."""

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
from ray_kmeans.workflows.predict_in_memory import (
    CLUSTER_IDX,
    DISTANCE,
    Batch,
    ReadyModel,
)
from ray_kmeans.workflows.validation import a_path

log = logging.getLogger("ray_kmeans")

METHODS = {"Allow": "GET, POST"}
"""Header that names the methods that are answered."""
TOO_LARGE = 413
"""HTTP status of a body that is too long."""
BODY_S = 30.0
"""Longest time for a client to send a body, in seconds."""
NUMBER_BYTES = 64
"""Largest size of a number as text with the spaces around it, in bytes."""


class Nearest:
    """Answers with the nearest center of each row; its model can be replaced while it runs.

    Parameters
    ----------
    store : ModelDir
        The directory of the model.
    max_rows : int
        Largest number of rows of a request.
    max_batch_size : int
        Largest number of requests that are answered together.
    wait_s : float
        Longest wait for that many requests, in seconds.
    """

    def __init__(self, store: ModelDir, max_rows: int, max_batch_size: int, wait_s: float) -> None:
        """Set the limits of a request and of a batch; `reconfigure` brings the model."""
        self._store = store
        self._max_rows = max_rows
        self._batch_rows = max_rows * max_batch_size
        """Largest number of rows of the requests that are answered together."""
        self._state: FitState | None = None
        self._refused: str | None = None
        """Why the last configuration was not taken; None if it was."""
        together = serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=wait_s)
        self._label: Any = together(self.label_together)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Load the model of a checkpoint; the next batch is labelled by it.

        Where it cannot be loaded, a replica that has a model keeps it, logs why and tells it by
        GET: Serve would end all replicas that raise here. A replica without a model raises.
        """
        self._refused = None
        try:
            self._load(user_config)
        except RayKMeansError as error:
            if self._state is None:
                raise
            self._refused = str(error)
            log.warning("the model stays that of iteration %d: %s", self._state.iteration, error)

    def _load(self, user_config: Mapping[str, Any]) -> None:
        """Replace the model by the checkpoint of a configuration; raise where that cannot be."""
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
        model.get_ready(self._batch_rows)
        self._state, self._model = state, model

    def check_health(self) -> None:
        """Raise RuntimeError unless the first center is nearest to itself."""
        found = self._model(self._served.centers[:1])[CLUSTER_IDX][0]
        if found != 0:
            raise RuntimeError(f"the kernel labels center 0 as {found}: this replica must restart.")

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer a request by HTTP, one that is wrong by a status of 4xx and a sentence."""
        if request.method == "GET":
            return JSONResponse(self.describe())
        if request.method != "POST":
            return refuse(405, f"{request.method} is not known. Send POST or GET.", METHODS)
        most = NUMBER_BYTES * (self._max_rows * self._features + 1)
        try:
            reading = requests.read_body(request.stream(), request.headers, most)
            given = requests.rows_in(await asyncio.wait_for(reading, BODY_S))
            if len(given) > self._max_rows:
                return refuse(413, f"the request has {len(given):,} rows: {self._too_many()}")
            answer = await self._label(requests.as_rows(given, self._features, self._served.shift))
        except requests.Refusal as error:
            more = f": {self._too_many()}" if error.status == TOO_LARGE else ""
            return refuse(error.status, f"{error.why}{more}")
        except asyncio.TimeoutError:
            return refuse(408, f"the body has not come within {BODY_S:g} s. Send it again.")
        except ClientDisconnect:
            return refuse(400, "the client has gone.")  # nobody reads this
        except DataError as error:
            return refuse(400, str(error))
        return JSONResponse({name: as_json(values) for name, values in answer.items()})

    async def label(self, rows: NDArray[Any]) -> Batch:
        """Return 'cluster_idx' (n,) and 'distance' (n,) of rows (n, d), for another deployment."""
        values = np.asarray(rows)
        if values.shape[1:] == (self._features,):  # other rows are refused below
            values = less(values, self._served.shift)
        given = requests.check_rows(to_float32(values, "the rows"), self._features)
        answer: Batch = await self._label(given)
        return answer

    async def label_together(self, parts: list[NDArray[np.float32]]) -> list[Batch]:
        """Return the labels of several requests' rows, by one pass in a thread of its own.

        The event loop takes other requests meanwhile.
        """
        answers = await asyncio.to_thread(self._model, np.concatenate(parts))
        cuts = np.cumsum([len(rows) for rows in parts])[:-1]
        split = {name: np.split(values, cuts) for name, values in answers.items()}
        return [{name: split[name][n] for name in split} for n in range(len(parts))]

    def describe(self) -> dict[str, Any]:
        """Return which model answers, and why the last configuration was refused, if it was."""
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
        """Return the end of the sentence that refuses a long request."""
        return f"{self._max_rows:,} rows may be in one. Send several requests."

    @property
    def _served(self) -> FitState:
        """The state of the model that answers."""
        if self._state is None:
            raise RuntimeError("this replica has no model: Serve gives it by user_config")
        return self._state

    @property
    def _features(self) -> int:
        """Features of a row."""
        return int(self._served.centers.shape[1])


def refuse(status: int, why: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an answer with a status and the sentence why a request is refused."""
    most = requests.LONGEST
    text = why if len(why) <= most else f"{why[:most]}..."
    return JSONResponse({"error": text}, status, headers)


def as_json(values: NDArray[Any]) -> list[Any]:
    """Return the values as a list, with null for a distance beyond float32."""
    return [None if value == np.inf else value for value in values.tolist()]


deployment = serve.deployment(Nearest)
"""The deployment of the application, before its options."""
