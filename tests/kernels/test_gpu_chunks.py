"""Rows on a device: what fits stays there, as narrow as may be; the rest is sent each time."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from ray_kmeans import kernels
from ray_kmeans.kernels.gpu.chunks import Chunks, to_narrowest
from ray_kmeans.kernels.gpu.device import PIECES, SPARE_PIECES, Device
from ray_kmeans.kernels.gpu.kernel import GpuKernel
from tests.conftest import GPU_KERNELS, small_tiles
from tests.support.walks import assert_follows, cut, table, walk

D = 16
ROW = 4 * D
SIZES = [10, 30, 20, 5, 35, 100]


def device_with(rows):
    """Return a device where a piece holds 40 rows, and that has room for so many more."""
    device = kernels.load("gpu-torch")._device
    return Small(device.handle, 40 * ROW, (rows + SPARE_PIECES * 40) * ROW)


class Small(Device):
    """A device with little memory."""

    def __init__(self, handle, piece, total):
        super().__init__(handle, total)
        object.__setattr__(self, "_piece", piece)

    @property
    def piece(self):
        return self._piece


class Counted(list):
    """Blocks that count how often each is asked for."""

    def __init__(self, blocks):
        super().__init__(blocks)
        self.asked = [0] * len(blocks)

    def __getitem__(self, here):
        self.asked[here] += 1
        return super().__getitem__(here)


def rows_of(chunks):
    return np.concatenate([rows.float().cpu().numpy().copy() for rows in chunks])


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(sum(SIZES), D)).astype(np.float32)


@pytest.mark.parametrize(
    ("room", "asked"),
    [
        (1000, [1, 1, 1, 1, 1, 1]),  # all stay
        (199, [1, 1, 1, 1, 1, 3]),  # but for the last chunk
        (70, [1, 1, 1, 1, 3, 3]),
        (0, [3, 3, 3, 3, 3, 3]),
    ],
)
def test_blocks_are_asked_for_again_only_where_they_found_no_room(X, room, asked):
    blocks = Counted(cut(X, SIZES))
    chunks = Chunks(blocks, SIZES, D, device_with(room))

    assert chunks.sizes == [40, 25, 35, 100]  # at most 40 rows, or one block
    for _ in range(3):
        np.testing.assert_array_equal(rows_of(chunks), X)
    assert blocks.asked == asked


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (torch.int8, [-128, 0, 127]),
        (torch.uint8, [0, 1, 255]),
        (torch.float16, [1 + 2.0**-10, 65504, 2.0**-24]),
        (torch.bfloat16, [1 + 2.0**-7, 3e38, 2.0**-133]),
        (torch.float32, [1 + 2.0**-23, 1, 1]),
        (torch.float32, [300, 1 + 2.0**-10, 2.0**-130]),
        (torch.float32, [np.nan, 1, 2]),
    ],
)
def test_a_chunk_stays_in_the_narrowest_type_that_holds_its_values(dtype, values):
    rows = torch.tensor([values], dtype=torch.float32)
    rows = rows.bfloat16().float() if dtype == torch.bfloat16 else rows

    narrow = to_narrowest(rows)

    assert narrow.dtype == dtype
    torch.testing.assert_close(narrow.float(), rows, rtol=0, atol=0, equal_nan=True)
    assert narrow.data_ptr() != rows.data_ptr()  # the buffer is used again


@pytest.mark.long(kind="chunks on a GPU")
@pytest.mark.parametrize(
    ("name", "room"), [*product(GPU_KERNELS[:1], [0, 70, 1000]), (GPU_KERNELS[1], 70)]
)
def test_labels_and_sums_do_not_depend_on_where_the_rows_are(name, room, monkeypatch):
    small_tiles(monkeypatch)
    X, centers = table(200, D, 9, "squared_euclidean")
    kernel = GpuKernel(1, device_with(room), by_bytes=name == "gpu-triton")

    held = kernel.hold(cut(X, SIZES), "squared_euclidean", 9)

    steps = ["lloyd", "one jumps", "one more"]
    assert_follows(held, X, walk(X, centers, "squared_euclidean", steps), "squared_euclidean")
    assert held._chunks.share_staying == {0: 0, 70: 65 / 200, 1000: 1}[room]


@pytest.mark.parametrize("kind", ["int8", "uint8", "float16", "bfloat16"])
@pytest.mark.parametrize("name", GPU_KERNELS)
def test_narrow_rows_have_the_bits_of_the_same_rows_as_float32(kind, name, monkeypatch):
    small_tiles(monkeypatch)
    X = np.random.default_rng(1).normal(size=(120, D)) * 100
    if kind == "bfloat16":
        X = torch.from_numpy(1e6 * X).bfloat16().float().numpy()
    else:
        low, high = (0, 255) if kind == "uint8" else (-127, 127)
        X = X.clip(low, high).astype(kind).astype(np.float32)
    held = kernels.load(name).hold([X], "squared_euclidean", 12)

    assert_follows(
        held, X, walk(X, X[:12].copy(), "squared_euclidean", ["lloyd"]), "squared_euclidean"
    )

    (chunk,) = held._chunks
    assert str(chunk.dtype) == f"torch.{kind}"


def test_a_block_that_cannot_be_read_ends_the_sweep_with_its_error(X):
    class Broken(list):
        def __getitem__(self, here):
            if here == 4:
                raise OSError("gone")
            return super().__getitem__(here)

    chunks = Chunks(Broken(cut(X, SIZES)), SIZES, D, device_with(1000))

    with pytest.raises(OSError, match="gone"):
        rows_of(chunks)


def test_half_a_device_has_half_of_its_memory():
    device = kernels.load("gpu-torch")._device
    half = replace(device, total=device.total // 2)

    assert half.room(0) <= device.total // 2 - SPARE_PIECES * half.piece
    assert half.piece <= device.total // 2 // PIECES
    assert half.room(1000) == half.room(0) - 1000 or half.is_gpu
