"""NAS-Bench-101 as it was released, read without TensorFlow: framed records, each JSON around a protocol buffer.

Sources: the record format of TensorFlow (tensorflow.org, TFRecord); `api.py` and `model_metrics.proto` of
google-research/nasbench.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spaces import InputError

CHECKED_DATA = 500  # every 500th record has its data checked too; each byte of a checksum takes 0.1 us in Python
MAX_RECORD = 1 << 24
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One of the three moments at which a training was evaluated: its start, half-way, its end."""

    epoch: float
    train_seconds: float
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float


@dataclass(frozen=True, slots=True)
class Record:
    """One training of one cell.

    Attributes:
        adjacency: rows of the matrix, one after another, as 0 and 1.
        operations: of all vertices, input and output included.
    """

    key: str
    epochs: int
    adjacency: str
    operations: tuple[str, ...]
    params: int
    evaluations: tuple[Evaluation, ...]


def read_records(path: Path) -> Iterator[Record]:
    """All records of a file.

    Raises:
        InputError: if a frame is cut, a checksum does not hold, or a record is none of NAS-Bench-101.
    """
    for number, data in enumerate(frames(path), start=1):
        try:
            key, epochs, adjacency, operations, metrics = json.loads(data)
            params, evaluations = model_metrics(base64.b64decode(metrics, validate=True))
            yield Record(key, int(epochs), adjacency, tuple(operations.split(",")), params, evaluations)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, struct.error, binascii.Error) as error:
            raise InputError(f"{path}: record {number} is none of NAS-Bench-101: {error}") from error


def frames(path: Path) -> Iterator[bytes]:
    """The data of each frame: length (8 bytes), its masked CRC-32C, data, its masked CRC-32C, all little-endian.

    The checksum of every length is checked, that of the data for the first and every 500th record.

    Raises:
        InputError: if the file is cut or damaged.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        number = 0
        while header := file.read(12):
            number += 1
            if len(header) < 12 or masked_crc(header[:8]) != int.from_bytes(header[8:], "little"):
                raise InputError(
                    f"{path}: record {number} has no sound length: this is no TFRecord file, or is damaged"
                )
            length = int.from_bytes(header[:8], "little")
            data = file.read(length) if length <= MAX_RECORD else b""
            end = file.read(4)
            if len(data) < length or len(end) < 4:
                raise InputError(f"{path}: record {number} is cut off", hint="fetch the file again")
            if number % CHECKED_DATA == 1 and masked_crc(data) != int.from_bytes(end, "little"):
                raise InputError(f"{path}: the checksum of record {number} does not hold", hint="fetch the file again")
            yield data


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), turned by 15 bits and shifted by a constant, as TensorFlow stores it."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


def model_metrics(data: bytes) -> tuple[int, tuple[Evaluation, ...]]:
    """Trainable parameters and evaluations of a serialised `ModelMetrics`.

    Raises:
        ValueError: if it is malformed or lacks them.
    """
    params, evaluations = None, []
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            evaluations.append(_evaluation(value))
        elif field == 2 and isinstance(value, int):
            params = value
    if params is None or not evaluations:
        raise ValueError("it must hold parameters and evaluations")
    return params, tuple(evaluations)


def _evaluation(data: bytes) -> Evaluation:
    values = {field: value for field, value in _fields(data) if isinstance(value, float)}
    return Evaluation(*(values[field] for field in range(1, 6)))


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of each field of a protocol buffer; eight bytes are a double, four a float."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif kind in (FIXED64, FIXED32):
            form = "<d" if kind == FIXED64 else "<f"
            yield tag >> 3, float(struct.unpack_from(form, data, at)[0])
            at += struct.calcsize(form)
        elif kind == BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {kind} is not used in it")


def _varint(data: Sequence[int], at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
