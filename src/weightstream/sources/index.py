"""Index files, ``*.safetensors.index.json``: which shard holds which tensor.

The format is that of the Hub's sharded checkpoints: a JSON object whose ``weight_map`` maps tensor names to shard
files beside the index (https://huggingface.co/docs/safetensors/index).
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, NoReturn

from .._errors import AuthError, ConfigError, FormatError, NotFoundError, StorageError

INDEX_SUFFIX = ".safetensors.index.json"
MAX_INDEX_BYTES = 100_000_000
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def read_weight_map(path: str) -> dict[str, str]:
    """Tensor name -> shard name, both checked: a shard name cannot leave the folder of the index.

    Raises:
        FormatError: not valid JSON, not of the form above, a name twice, or a shard name that is absolute, has ``..``,
            a backslash, a NUL or a scheme.
        NotFoundError, AuthError, StorageError: the index cannot be read.

    """
    if os.path.exists(path) and not os.path.isfile(path):
        # Opening a FIFO would wait for a writer.
        raise ConfigError("the index is not a regular file", source=path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_INDEX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError("no such file", source=path, errno=error.errno) from None
    except PermissionError as error:
        raise AuthError("permission denied: this user may not read the index", source=path, errno=error.errno) from None
    except OSError as error:
        raise StorageError(f"cannot read the index: {error.strerror}", source=path, errno=error.errno) from None
    return parse_weight_map(data, path)


def parse_weight_map(data: bytes, path: str) -> dict[str, str]:
    """As read_weight_map, of the bytes of an index; `path` is for messages."""
    if len(data) > MAX_INDEX_BYTES:
        raise FormatError(f"the index is larger than {MAX_INDEX_BYTES} bytes", source=path)
    if data.startswith(b"version https://git-lfs"):
        raise FormatError("this is a Git LFS pointer, not the index; run `git lfs pull`", source=path)
    try:
        index = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the index is not valid JSON: {error}", source=path) from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise FormatError("the index has no weight_map object", source=path)
    for name, shard in weight_map.items():
        _check_name(name, path)
        _check_shard(name, shard, path)
    if not weight_map:
        raise FormatError("the weight_map of the index is empty", source=path)
    return weight_map


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} is there twice")
            seen.add(key)
    return result


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _check_name(name: str, path: str) -> None:
    if "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
        raise FormatError(f"tensor name {name!r} in the index has a NUL or a lone surrogate", source=path)


def _check_shard(name: str, shard: Any, path: str) -> None:
    if not isinstance(shard, str):
        raise FormatError(f"the index maps tensor {name!r} to {shard!r}, which is not a file name", source=path)
    problem = None
    if not shard or shard in (".", ".."):
        problem = "is not a file name"
    elif shard.startswith("/"):
        problem = "is absolute"
    elif ".." in shard.split("/"):
        problem = "has '..'"
    elif "\\" in shard:
        problem = "has a backslash"
    elif "\0" in shard or any("\ud800" <= char <= "\udfff" for char in shard):
        problem = "has a NUL or a lone surrogate"
    elif _SCHEME.match(shard):
        problem = "has a scheme"
    if problem:
        raise FormatError(
            f"the index maps tensor {name!r} to shard {shard!r}, which {problem}; shards lie beside their index",
            source=path,
        )
