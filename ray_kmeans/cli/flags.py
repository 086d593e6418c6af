"""Flags that several commands share, and the calls that they all make with them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.cli import exit_codes
from ray_kmeans.config import MachineOptions, NonFinite, RunConfig
from ray_kmeans.data.model_rows import open_for, said_of
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError
from ray_kmeans.text import secrets
from ray_kmeans.workflows.worker_plan import workforce

JSON = ("filters", "storage_options")
"""Names of the flags whose text is JSON."""


@dataclass(frozen=True, kw_only=True)
class Configured:
    """The flag that every command has."""

    config: str | None = None
    """YAML or JSON file of flags by their names, as num_clusters; the command line wins over it."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The flags that choose rows and columns."""

    columns: tuple[str, ...] = ()
    """The column of vectors, or the columns of numbers. Needed where there is a choice; a model
    knows its own."""
    filters: str = "[]"
    """JSON list of [column, operator, value]: rows for which not all of them hold are left out,
    with the cluster -1."""
    nonfinite: NonFinite = "error"
    """What becomes of rows with NaN, null or infinity. 'drop': they are left out, with the cluster
    -1, and counted."""
    format: str | None = None
    """Format of the files (parquet, csv, jsonl, npy, ...) where their names do not tell it."""
    header: bool | None = None
    """Whether the first line of a CSV has the names of the columns (False: these are 0, 1, ...).
    None: as it looks."""

    def open(
        self,
        uri: str,
        config: RunConfig,
        state: FitState | None,
        sample_weight: str | None = None,
        center: bool = False,
    ) -> Source:
        """Return the chosen rows of the data at a URI, with the columns of a model if any."""
        return open_for(
            state,
            uri,
            self.columns,
            config.storage_options,
            sample_weight=sample_weight,
            filters=parse_json("filters", self.filters),
            nonfinite=self.nonfinite,
            format=self.format,
            center=center,
            header=self.header,
        )


@dataclass(frozen=True, kw_only=True)
class WeighedRows(Rows):
    """The flags that choose rows and columns, and how often each row counts."""

    sample_weight: str | None = None
    """Column of numbers from 0 on that tell how often each row counts."""


def run_config(options: MachineOptions, storage_options: str) -> RunConfig:
    """Return the run configuration that the flags describe."""
    return RunConfig(
        **asdict(options), storage_options=parse_json("storage_options", storage_options)
    )


def parse_json(name: str, text: str) -> Any:
    """Return the value of a flag's JSON text; ConfigError if it is none."""
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
    workers: str | None = None,
    rows: Source | None = None,
) -> None:
    """Print on standard error what runs where, and by which columns of `rows`.

    `workers` is a phrase for those who work; None: the workers of the configuration.
    """
    line = " -> ".join(secrets.shown(place) for place in (source, target) if place)
    features = said_of(rows) if rows is not None else ""
    line += f", features: {features}" if features else ""
    where = "in this process"
    if config.num_workers != 0:
        address = secrets.shown(config.ray_address or "") or "RAY_ADDRESS, else this machine"
        where = f"on Ray at {address}, {workers or _workers(config)}"
    exit_codes.print_to_stderr(f"{name}: {line}, {where}")


def join_ray(config: RunConfig) -> None:
    """Join or start Ray, unless the command runs in this process."""
    if config.num_workers != 0:
        workforce(config)
        exit_codes.end_at_sigterm()


def _workers(config: RunConfig) -> str:
    """Return a phrase for the workers of a configuration."""
    count, cpus = config.num_workers, config.cpus_per_worker
    if config.backend == "gpu":
        return f"{count or 'all'} workers of {config.gpus_per_worker or 1:g} GPU"
    if count is None and cpus is None:
        return "one worker per node"
    return f"{count or 'all'} workers of {cpus or 1:g} CPU{'s'[: cpus not in (None, 1)]}"
