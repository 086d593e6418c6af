"""Tests that every source inherits, ours and yours. They need pytest."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest

from ray_kmeans.data import sharding as plan
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.source import Source, is_only_here

Case: TypeAlias = tuple[Source, Any]
"""A source, and the rows (n, d) that it must yield, float32."""


class SourceContract:
    """Test what every source promises: subclass this, and give the fixture `source_and_rows`.

    ::

        from ray_kmeans.testing import SourceContract

        class TestSquares(SourceContract):
            @pytest.fixture
            def source_and_rows(self):
                numbers = np.arange(20_000, dtype=np.float32)
                return Squares(20_000), np.stack([numbers, numbers**2], axis=1)

    `pytest.register_assert_rewrite("ray_kmeans.testing")` in a conftest.py makes pytest show the
    values of what fails.
    """

    @pytest.fixture
    def source_and_rows(self) -> Case:
        """Return a source of several blocks, and the whole float32 matrix that it must yield."""
        raise NotImplementedError

    def test_it_is_a_source_and_passes_for_one(self, source_and_rows: Case) -> None:
        source, _ = source_and_rows

        assert isinstance(source, Source)
        assert open_source(source) is source

    def test_it_describes_itself_the_same_way_twice(self, source_and_rows: Case) -> None:
        source, rows = source_and_rows

        layout = source.describe()

        assert source.describe() == layout
        assert (layout.rows, layout.features) == rows.shape

    def test_blocks_cover_every_row_once_in_order(self, source_and_rows: Case) -> None:
        source, rows = source_and_rows

        blocks = source.describe().blocks

        sizes = [block.rows for block in blocks]
        assert len(blocks) > 1
        assert sum(sizes) == len(rows)
        assert [block.index for block in blocks] == list(range(len(blocks)))
        assert [block.first for block in blocks] == np.cumsum([0, *sizes[:-1]]).tolist()
        assert {block.features for block in blocks} == {rows.shape[1]}
        in_file: dict[str, int] = {}
        for block in blocks:
            assert block.start == in_file.get(block.file, 0)
            in_file[block.file] = block.start + block.rows
        assert list(in_file) == sorted(in_file)

    def test_a_block_has_at_most_the_rows_of_a_block(self, source_and_rows: Case) -> None:
        source, _ = source_and_rows

        sizes = [block.rows for block in source.describe().blocks]

        assert min(sizes) > 0
        assert max(sizes) <= getattr(source, "block_rows", plan.BLOCK_ROWS)

    def test_it_yields_the_rows_as_float32_in_c_order(self, source_and_rows: Case) -> None:
        source, rows = source_and_rows
        blocks = source.describe().blocks

        read = list(source.read(blocks))

        assert tuple(block for block, _ in read) == blocks
        for block, part in read:
            assert part.shape == (block.rows, block.features)
            assert part.dtype == np.float32
            assert part.flags.c_contiguous
        np.testing.assert_array_equal(np.vstack([part for _, part in read]), rows)

    def test_any_run_of_blocks_yields_its_rows(self, source_and_rows: Case) -> None:
        source, rows = source_and_rows
        blocks = source.describe().blocks
        ends = sorted({1, 2, 3, 4, len(blocks) - 1, len(blocks)})
        runs = [blocks[begin:end] for end in ends for begin in {0, 1, 2, 3, end - 1} if begin < end]

        for run in runs:
            self.check(source.read(run), run, rows)

    def test_any_choice_of_blocks_yields_its_rows(self, source_and_rows: Case) -> None:
        source, rows = source_and_rows
        blocks = source.describe().blocks

        for chosen in (blocks[::2], blocks[1::2], blocks[:1] + blocks[-1:], ()):
            self.check(source.read(chosen), chosen, rows)

    def test_blocks_come_in_the_order_given(self, source_and_rows: Case) -> None:
        source, rows = source_and_rows
        backwards = source.describe().blocks[::-1]

        self.check(source.read(backwards), backwards, rows)

    def test_it_survives_pickling(self, source_and_rows: Case) -> None:
        source, rows = source_and_rows

        again = pickle.loads(pickle.dumps(source))

        assert again.describe() == source.describe()
        assert is_only_here(again) == is_only_here(source)
        blocks = again.describe().blocks
        self.check(again.read(blocks), blocks, rows)

    @staticmethod
    def check(read: Iterable[tuple[Any, Any]], expected: Sequence[Any], rows: Any) -> None:
        """Assert that the expected blocks were read, in their order, each with its rows."""
        seen = []
        for block, part in read:
            np.testing.assert_array_equal(part, rows[block.first : block.first + block.rows])
            seen.append(block)
        assert seen == list(expected)
