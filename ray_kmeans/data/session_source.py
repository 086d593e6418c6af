"""The rows of a session: data that workers hold already, and how a model's call may use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.column_choice import shortened
from ray_kmeans.data.float32_rounding import shift_of
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import WeightedSource, as_weighted
from ray_kmeans.errors import ConfigError


def _accept(*_: Any) -> None:
    """Accept any call: the memory of a fit that labels its rows is planned with the fit."""


@dataclass(frozen=True)
class SessionSource(WeightedSource):
    """A source whose rows the workers of a session hold, as the session has opened it."""

    config: RunConfig = field(default_factory=RunConfig, compare=False)
    """Machines of the session."""
    lend: Callable[..., AbstractContextManager[Any]] = field(
        default=nullcontext, compare=False, repr=False
    )
    """Gives the pool of the session to one call: (number of clusters, metric, rows of a mini-batch
    or None, listener or None, bytes of other work in each worker)."""
    check: Callable[..., None] = field(default=_accept, compare=False, repr=False)
    """Raises ConfigError for a call that the session has no plan for: (number of clusters, metric,
    rows of a mini-batch or None)."""

    @classmethod
    def of(cls, source: Source, **of_session: Any) -> SessionSource:
        """Return the rows of a source as those of a session; `of_session`: the fields above."""
        weighted = as_weighted(source)
        own = {each.name: getattr(weighted, each.name) for each in fields(WeightedSource)}
        return cls(**own, **of_session)

    def check_given(self, columns: Sequence[str] | None, counting: Mapping[str, Any]) -> None:
        """Raise ConfigError for an argument that would read the rows in another way."""
        given = [name for name, value in {"columns": columns, **counting}.items() if _says(value)]
        if given:
            raise ConfigError(
                f"{given[0]} is given with a session, whose rows are read already. Give it to "
                "open_session, or make the call with the data."
            )

    def check_fits(self, state: FitState | None) -> None:
        """Raise ConfigError unless the rows are read as a model's rows were."""
        if state is None:
            return
        columns = state.rows.columns if state.rows else ()
        if columns and self.columns not in ((), columns) and not self._is_of_vectors:
            raise ConfigError(
                f"the model was fitted on the columns {shortened(columns)}, and the session has "
                f"{shortened(self.columns)}. Open a session of open_source(data, columns=[...]) "
                "with the columns of the model in its order."
            )
        if state.shift != shift_of(self):
            raise ConfigError(
                "the model and the session shift their rows otherwise (center=True). Open a "
                "session of the data as the model was fitted on them."
            )

    @property
    def _is_of_vectors(self) -> bool:
        """Whether a row is one column of vectors that is read whatever its name is."""
        is_named = getattr(self.source, "by_name", True)
        return is_named and len(self.columns) == 1 and self.describe().features > 1


def _says(value: Any) -> bool:
    """Return whether an argument of `open_source` is another than its default."""
    is_default = value is None or value is False or (isinstance(value, str) and value == "error")
    return not is_default and not (isinstance(value, Sequence) and len(value) == 0)


class HoldsRows:
    """The base of a session, by which data are told from one."""

    source: SessionSource
    """The rows, as the session has opened them."""

    def check_open(self) -> None:
        """Raise ConfigError if the workers have ended."""
        raise NotImplementedError
