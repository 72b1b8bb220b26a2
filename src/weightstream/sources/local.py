"""Local locations: a file, an index, a directory (by its index when it has one), a glob."""

from __future__ import annotations

import errno
import glob
import os
import re
from dataclasses import dataclass

from .._errors import AuthError, ConfigError, NotFoundError, StorageError
from .index import INDEX_SUFFIX, read_weight_map

SUFFIX = ".safetensors"
DEFAULT_INDEX = "model" + INDEX_SUFFIX
_CONSOLIDATED = re.compile(r"consolidated\b.*\.safetensors")
_DIGITS = re.compile(r"(\d+)")


@dataclass
class Found:
    """Paths, and tensor name -> path where an index says so."""

    paths: list[str]
    weight_map: dict[str, str] | None = None


def resolve(path: str) -> Found:
    """Finds the sources of one local location. A path that exists is taken as it is, also with glob characters."""
    if os.path.isdir(path):
        return _directory(path)
    if path.endswith(INDEX_SUFFIX) and os.path.isfile(path):
        return _index(path)
    if not os.path.lexists(path) and glob.has_magic(path):
        return _glob(path)
    return Found([path])  # the core opens it, and says precisely what is wrong with it


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts shard-2 before shard-10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(name)]


def _glob(pattern: str) -> Found:
    paths = [path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)]
    if not paths:
        raise NotFoundError("no file matches", source=pattern, errno=errno.ENOENT)
    return Found(sorted(paths, key=_natural))


def _index(path: str) -> Found:
    folder = os.path.dirname(path)
    weight_map = {name: os.path.join(folder, shard) for name, shard in read_weight_map(path).items()}
    return Found(sorted(set(weight_map.values()), key=_natural), weight_map)


def _directory(path: str) -> Found:
    try:
        names = sorted(os.listdir(path), key=_natural)
    except PermissionError as error:
        raise AuthError(
            "permission denied: this user may not list the directory", source=path, errno=error.errno
        ) from None
    except OSError as error:
        raise StorageError(f"cannot list the directory: {error.strerror}", source=path, errno=error.errno) from None

    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if DEFAULT_INDEX in indexes:
        return _index(os.path.join(path, DEFAULT_INDEX))
    if len(indexes) == 1:
        return _index(os.path.join(path, indexes[0]))
    if indexes:
        raise ConfigError(
            f"the directory has several indexes, and none is {DEFAULT_INDEX}: {', '.join(indexes)}; name one of them",
            source=path,
        )
    files = [name for name in names if name.endswith(SUFFIX)]
    # Some models come twice, as shards and as one consolidated file of the same weights under other names.
    shards = [name for name in files if not _CONSOLIDATED.fullmatch(name)] or files
    if not shards:
        raise NotFoundError(f"the directory has no *{SUFFIX} file and no index", source=path, errno=errno.ENOENT)
    return Found([os.path.join(path, name) for name in shards])
