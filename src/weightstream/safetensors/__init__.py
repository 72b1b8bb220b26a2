"""The reading API of the safetensors package, read by weightstream.

In place of ``from safetensors import safe_open``::

    from weightstream.safetensors import safe_open
    with safe_open("model.safetensors", framework="pt") as f:
        for name in f.keys():
            tensor = f.get_tensor(name)

What writes is the safetensors package itself, which has to be installed (``pip install 'weightstream[safetensors]'``).
"""

try:
    from safetensors import SafetensorError, deserialize, serialize, serialize_file
except ModuleNotFoundError as error:
    if error.name != "safetensors":
        raise
    raise ModuleNotFoundError(
        "weightstream.safetensors needs the package safetensors: pip install 'weightstream[safetensors]'",
        name="safetensors",
    ) from error

from ._open import TensorMeta, safe_open
from ._prefetch import PrefetchLoader
from ._reader import ReadStats
from ._slices import SafeSlice

__all__ = [
    "PrefetchLoader",
    "ReadStats",
    "SafeSlice",
    "SafetensorError",
    "TensorMeta",
    "deserialize",
    "safe_open",
    "serialize",
    "serialize_file",
]
