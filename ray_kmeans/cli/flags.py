"""What the flags of several commands have in common, and what becomes of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.cli import exit_codes
from ray_kmeans.config import MachineOptions, RunConfig
from ray_kmeans.data.model_rows import open_for, said_of
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError
from ray_kmeans.text import secrets
from ray_kmeans.workflows.plan import workforce

JSON = ("filters", "storage_options")
"""Flags whose text is JSON."""


@dataclass(frozen=True, kw_only=True)
class Configured:
    """The flag that every job has."""

    config: str | None = None
    """YAML or JSON file of flags by their names, as num_clusters; the command line wins over it."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which rows are looked at."""

    columns: tuple[str, ...] = ()
    """The column of vectors, or the columns of numbers. Needed where there is a choice; a model
    knows its own."""
    filters: str = "[]"
    """JSON list of [column, operator, value]: rows for which not all hold are left out, with the
    cluster -1."""
    nonfinite: Literal["error", "drop"] = "error"
    """'drop': rows with NaN, null or infinity are left out, with the cluster -1, and counted."""
    format: str | None = None
    """What the files are (parquet, csv, jsonl, npy, ...) where their names do not tell."""

    header: bool | None = None
    """Of CSV: whether its first line has names (False: they are 0, 1, ...). None: as it looks."""

    def open(
        self,
        uri: str,
        config: RunConfig,
        state: FitState | None,
        sample_weight: str | None = None,
        center: bool = False,
    ) -> Source:
        """Return these rows of the data at a URI, as a model that is there reads them."""
        return open_for(
            state,
            uri,
            self.columns,
            config.storage_options,
            sample_weight=sample_weight,
            filters=parsed("filters", self.filters),
            nonfinite=self.nonfinite,
            format=self.format,
            center=center,
            header=self.header,
        )


@dataclass(frozen=True, kw_only=True)
class WeighedRows(Rows):
    """Which rows are looked at, and how often each counts."""

    sample_weight: str | None = None
    """A column of numbers from 0 on: how often each row counts."""


def run_config(options: MachineOptions, storage_options: str) -> RunConfig:
    """Return the run configuration that these flags ask for."""
    return RunConfig(**asdict(options), storage_options=parsed("storage_options", storage_options))


def parsed(name: str, text: str) -> Any:
    """Return what JSON in a flag says."""
    try:
        return json.loads(text)
    except ValueError as error:  # the value may hold a secret
        hint = """ Give it as in --filters '[["id", ">", 3]]'.""" if name == "filters" else ""
        raise ConfigError(f"{name} is not JSON: {error}.{hint}") from None


def announce(
    name: str,
    source: str,
    target: str | None,
    config: RunConfig,
    crew: str | None = None,
    rows: Source | None = None,
) -> None:
    """Say what runs where, and by which columns of these rows.

    The crew are the workers, where no other is named.
    """
    way = " -> ".join(secrets.shown(place) for place in (source, target) if place)
    features = said_of(rows) if rows is not None else ""
    way += f", features: {features}" if features else ""
    where = "in this process"
    if config.num_workers != 0:
        address = secrets.shown(config.ray_address or "") or "RAY_ADDRESS, else this machine"
        where = f"on Ray at {address}, {crew or _workers(config)}"
    exit_codes.say(f"{name}: {way}, {where}")


def join(config: RunConfig) -> None:
    """Join or start Ray where the workers are to run there."""
    if config.num_workers != 0:
        workforce(config)
        exit_codes.end_at_sigterm()


def _workers(config: RunConfig) -> str:
    count, cpus = config.num_workers, config.cpus_per_worker
    if config.backend == "gpu":
        return f"{count or 'all'} workers of {config.gpus_per_worker or 1:g} GPU"
    if count is None and cpus is None:
        return "one worker per node"
    return f"{count or 'all'} workers of {cpus or 1:g} CPU{'s'[: cpus not in (None, 1)]}"
