"""NumPy arrays, with the dtypes of ml_dtypes where numpy lacks one. Nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .._config import Device
from .._core import Stream as CoreStream
from .._errors import ConfigError
from . import Take

_NUMPY = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
    # Packed in the file; ml_dtypes has unpacked 4- and 6-bit types only. F4: two elements in a byte, the last
    # dimension halved. F6: bytes, flat.
    "F4": "uint8",
    "F6_E2M3": "uint8",
    "F6_E3M2": "uint8",
}
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


# Elements that share bytes.
_PACKED = ("F4", "F6_E2M3", "F6_E3M2")
# What `dtype` casts; everything else (integers, quantised values) stays what it is.
_CAST = ("float64", "float32", "float16", "bfloat16")


def _cast_to(dtype: Any) -> np.dtype[Any]:
    try:
        found = numpy_dtype("BF16") if dtype == "bfloat16" else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or (found.kind != "f" and found.name != "bfloat16"):
        raise ConfigError(f"dtype={dtype!r} is not a floating-point dtype of numpy; give one such as 'float32'")
    return found


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of a header's dtype name.

    Raises:
        ConfigError: it needs the package ml_dtypes, which is not installed.

    """
    if dtype in _NUMPY:
        return np.dtype(_NUMPY[dtype])
    try:
        import ml_dtypes
    except ModuleNotFoundError as error:
        raise ConfigError(f"dtype {dtype} in numpy needs the package ml_dtypes, which is not installed") from error
    scalar: type[Any] = getattr(ml_dtypes, _ML_DTYPES[dtype])
    return np.dtype(scalar)


def of_buffer(
    buffer: Any, dtype: str, shape: tuple[int, ...], offset: int, nbytes: int, copy: bool = False
) -> np.ndarray[Any, Any]:
    """An array of a header's dtype name and shape that lies in `buffer`, from `offset` on, and keeps it alive.

    One that is not aligned for its dtype there is a copy, as is any that is asked for as one.
    """
    made = numpy_dtype(dtype)
    if dtype in _PACKED:
        shape = _packed(dtype, shape, nbytes)
    array: np.ndarray[Any, Any] = np.ndarray(shape, made, buffer, offset)
    return array.copy() if copy or not array.flags.aligned else array


def _packed(dtype: str, shape: tuple[int, ...], nbytes: int) -> tuple[int, ...]:
    if dtype == "F4" and shape and shape[-1] % 2 == 0:
        return (*shape[:-1], shape[-1] // 2)
    return (nbytes,)


class NumpyFramework:
    """Arrays of numpy, in host memory."""

    def __init__(self, device: Device, dtype: Any = None, into: Mapping[str, Any] | None = None) -> None:
        if str(device) != "cpu":
            raise ConfigError(f"framework='numpy' has arrays on the CPU only, not on {device!r}")
        self._cast = None if dtype is None else _cast_to(dtype)
        self._into = into
        self._dtypes: dict[str, np.dtype[Any]] = {}

    def _take(self, stream: CoreStream) -> list[tuple[str, np.ndarray[Any, Any]]]:
        arrays = [
            (name, np.ndarray(shape, self._dtype(dtype), memoryview(buffer)))
            for name, buffer, shape, dtype in stream.next_buffers()
        ]
        if self._into is not None:
            for name, array in arrays:
                self._into[name][...] = array
            return [(name, self._into[name]) for name, _ in arrays]
        if self._cast is not None:
            return [(name, self._casted(array)) for name, array in arrays]
        return arrays

    def _casted(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array.astype(self._cast, copy=False) if array.dtype.name in _CAST else array

    def target(self, device_limit: int) -> None:
        """See Framework.target."""

    def begin(self, stream: CoreStream) -> Take[np.ndarray[Any, Any]]:
        """See Framework.begin."""
        return partial(self._take, stream)

    def check_into(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        """See Framework.check_into."""
        assert self._into is not None
        array = self._into[name]
        if not isinstance(array, np.ndarray):
            raise ConfigError(f"into[{name!r}] is not a numpy.ndarray")
        wanted = self._dtype(dtype)
        if dtype in _PACKED:
            raise ConfigError(f"into[{name!r}]: numpy has no dtype for {dtype}; leave it out by names=")
        if (array.dtype, array.shape) != (wanted, shape):
            raise ConfigError(f"into[{name!r}] is {array.dtype} {array.shape}; the checkpoint has {wanted} {shape}")
        if not array.flags.writeable:
            raise ConfigError(f"into[{name!r}] is not writable")

    def _dtype(self, dtype: str) -> np.dtype[Any]:
        known = self._dtypes.get(dtype)
        if known is None:
            known = self._dtypes[dtype] = numpy_dtype(dtype)
        return known

    def index(self, tensor: np.ndarray[Any, Any], index: Any) -> np.ndarray[Any, Any]:
        """See Framework.index."""
        result = np.asarray(tensor[index])
        if result.nbytes == tensor.nbytes and result.flags.c_contiguous:
            return result
        return np.array(result, order="C", copy=True)
