"""TensorBoard's event files: scalars as protocol buffers, in the records of TensorFlow.

The few fields that scalars need are written here: the library that writes them all imports torch
where it is installed, for which every fit would wait for seconds.
"""

from __future__ import annotations

import socket
import struct
import time
import uuid
from collections.abc import Mapping

import numpy as np

VERSION = b"brain.Event:2"
"""Version of the format, which the first record of a file names."""
POLYNOMIAL = 0x82F63B78
"""The polynomial of CRC-32C (Castagnoli), its bits in reverse."""
MASK = 0xA282EAD8
"""What TensorFlow adds to a checksum that stands beside the data it is of."""


class EventFile:
    """The content of one event file, in memory."""

    def __init__(self) -> None:
        begun = time.time()
        # Without an end of its own, two files of one host and second have the same name.
        unique = uuid.uuid4().hex[:12]
        self.name = f"events.out.tfevents.{int(begun)}.{socket.gethostname()}.{unique}"
        """Name of the file, by which TensorBoard knows it."""
        self._content = bytearray(_record(_double(1, begun) + _text(3, VERSION)))

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Add a point to each of these curves, by their tags."""
        values = (_text(1, tag.encode()) + _float(2, float(y)) for tag, y in scalars.items())
        summary = b"".join(_text(1, value) for value in values)
        time_and_step = _double(1, time.time()) + _key(2, 0) + _whole(int(step))
        self._content += _record(time_and_step + _text(5, summary))

    def content(self) -> bytes:
        """Return the whole content of the file so far."""
        return bytes(self._content)


def checksum(data: bytes) -> int:
    """Return the masked CRC-32C of some bytes, as a record has it.

    >>> hex(checksum(b"123456789"))
    '0xc78ab0e5'
    """
    found = 0xFFFFFFFF
    for byte in data:
        found = (found >> 8) ^ _TABLE[(found ^ byte) & 0xFF]
    found ^= 0xFFFFFFFF
    return (((found >> 15) | (found << 17)) + MASK) & 0xFFFFFFFF


def _table() -> list[int]:
    """Return the CRC-32C of each byte."""
    table = []
    for found in range(256):
        for _ in range(8):
            found = (found >> 1) ^ (POLYNOMIAL if found & 1 else 0)
        table.append(found)
    return table


_TABLE = _table()
"""(256,) the CRC-32C of each byte, of which those of longer data are made."""


def _record(data: bytes) -> bytes:
    """Return data with their length and the checksums of both."""
    length = struct.pack("<Q", len(data))
    sums = struct.pack("<I", checksum(length)), struct.pack("<I", checksum(data))
    return length + sums[0] + data + sums[1]


def _key(field: int, kind: int) -> bytes:
    """Return what announces a field of a protocol buffer and the kind of its value."""
    return _whole(field << 3 | kind)


def _whole(value: int) -> bytes:
    """Return a whole number from 0 on, 7 bits a byte."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _text(field: int, value: bytes) -> bytes:
    """Return a field of bytes, a text or a message."""
    return _key(field, 2) + _whole(len(value)) + value


def _double(field: int, value: float) -> bytes:
    """Return a field of a float64."""
    return _key(field, 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    """Return a field of a float32; a value beyond its range becomes infinity."""
    with np.errstate(over="ignore"):
        return _key(field, 5) + bytes(np.array(value, "<f4").tobytes())
