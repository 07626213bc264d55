"""How the grader speaks with its children: messages of plain data over a socket.

Nothing is pickled: what comes out of a child that runs a student's program is data, and reading it
can call nothing. A message is one JSON text and, after it, the bytes of its arrays.
"""

import json
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_BYTES = 1 << 28
_LENGTHS = struct.Struct("<II")
_PLAIN = (bool, int, float, str, type(None))
DTYPES = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


class ClosedError(Exception):
    """The other end is gone."""


class LateError(Exception):
    """The other end did not answer in time."""


class NotDataError(TypeError):
    """A value cannot travel."""


class Channel:
    """One end of a socket on which messages go both ways.

    Parameters
    ----------
    end : socket
    """

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def send(self, message: Any) -> None:
        """Send one message."""
        text, arrays = encode(message)
        try:
            self.end.sendall(_LENGTHS.pack(len(text), len(arrays)) + text + arrays)
        except OSError:
            raise ClosedError from None

    def receive(self, limit_s: float | None = None) -> Any:
        """Wait for one message.

        Raises
        ------
        ClosedError
            If the other end is gone, or sends what is no message.
        LateError
            If nothing comes for `limit_s` seconds.
        """
        text_bytes, array_bytes = _LENGTHS.unpack(self._read(_LENGTHS.size, limit_s))
        if text_bytes + array_bytes > MAX_BYTES:
            raise ClosedError
        text, arrays = self._read(text_bytes, limit_s), self._read(array_bytes, limit_s)
        try:
            return decode(text, arrays)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ClosedError from None

    def _read(self, count: int, limit_s: float | None) -> bytes:
        data = bytearray()
        while len(data) < count:
            if limit_s is not None and not select.select([self.end], [], [], limit_s)[0]:
                raise LateError
            try:
                piece = self.end.recv(min(count - len(data), 1 << 20))
            except OSError:
                piece = b""
            if not piece:
                raise ClosedError
            data += piece
        return bytes(data)


def encode(value: Any) -> tuple[bytes, bytes]:
    """Turn plain data into JSON and the bytes of its arrays.

    Raises
    ------
    NotDataError
        If there is anything else in it.
    """
    arrays: list[bytes] = []
    try:
        text = json.dumps(_pack(value, arrays))
    except RecursionError:
        raise NotDataError("something that holds itself") from None
    return text.encode(), b"".join(arrays)


def _pack(value: Any, arrays: list[bytes]) -> Any:
    if type(value) in _PLAIN:
        return value
    if type(value) is list:
        return [_pack(each, arrays) for each in value]
    if isinstance(value, np.generic | np.ndarray):
        array = np.asarray(value)
        if array.dtype.name not in DTYPES:
            raise NotDataError(f"an array of {array.dtype}")
        arrays.append(array.tobytes())
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return {kind: [array.dtype.name, list(array.shape)]}
    if isinstance(value, tuple | set | frozenset):
        kind = "tuple" if isinstance(value, tuple) else "set"
        return {kind: [_pack(each, arrays) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[_pack(k, arrays), _pack(v, arrays)] for k, v in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if hasattr(value, "device_number"):
        return {"device": value.device_number}
    raise NotDataError(f"a {type(value).__name__}")


def decode(text: bytes, arrays: bytes) -> Any:
    """Undo :func:`encode`; arrays of the device come back as :class:`OnDevice`."""
    rest = memoryview(arrays)

    def take(dtype: str, shape: list[int]) -> np.ndarray:
        nonlocal rest
        if dtype not in DTYPES:
            raise ValueError(dtype)
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        array = np.frombuffer(rest[:count], dtype).reshape(shape).copy()
        rest = rest[count:]
        return array

    makers: dict[str, Callable[[Any], Any]] = {
        "array": lambda of: take(*of),
        "number": lambda of: take(*of)[()],
        "tuple": lambda of: tuple([unpack(each) for each in of]),
        "set": lambda of: {unpack(each) for each in of},
        "dict": lambda of: {unpack(key): unpack(value) for key, value in of},
        "bytes": bytes.fromhex,
        "device": OnDevice,
    }

    def unpack(packed: Any) -> Any:
        if isinstance(packed, list):
            return [unpack(each) for each in packed]
        if isinstance(packed, dict):
            ((kind, content),) = packed.items()
            return makers[kind](content)
        return packed

    return unpack(json.loads(text))


class OnDevice:
    """Names an array that lies on the device.

    Parameters
    ----------
    number : int
    """

    def __init__(self, number: int) -> None:
        self.device_number = int(number)
