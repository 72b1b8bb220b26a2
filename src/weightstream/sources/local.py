"""Local locations: a file, an index, a directory (by its index when it has one), a glob."""

from __future__ import annotations

import errno
import glob
import os
import stat
from dataclasses import dataclass
from typing import NoReturn

from .._errors import AuthError, ConfigError, NotFoundError, StorageError
from .index import INDEX_SUFFIX, read_weight_map
from .names import NO_WEIGHTS, choose, natural
from .remote import File, LocalSource


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


def _glob(pattern: str) -> Found:
    paths = [path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)]
    if not paths:
        raise NotFoundError("no file matches", source=pattern, errno=errno.ENOENT)
    return Found(sorted(paths, key=natural))


def _index(path: str) -> Found:
    folder = os.path.dirname(path)
    weight_map = {name: os.path.join(folder, shard) for name, shard in read_weight_map(path).items()}
    return Found(sorted(set(weight_map.values()), key=natural), weight_map)


def _directory(path: str) -> Found:
    try:
        names = os.listdir(path)
    except PermissionError as error:
        raise AuthError(
            "permission denied: this user may not list the directory", source=path, errno=error.errno
        ) from None
    except OSError as error:
        raise StorageError(f"cannot list the directory: {error.strerror}", source=path, errno=error.errno) from None

    choice = choose(names, path)
    if choice.index:
        return _index(os.path.join(path, choice.index))
    if not choice.shards:
        raise NotFoundError(f"the directory {NO_WEIGHTS}", source=path, errno=errno.ENOENT)
    return Found([os.path.join(path, name) for name in choice.shards])


def list_files(path: str) -> list[File]:
    """All files below a directory, those that match a glob, or the file itself.

    Links to folders are not followed: they may lead out, or in circles.
    """
    if os.path.isdir(path):
        found = [os.path.join(folder, name) for folder, _, names in os.walk(path, onerror=_fail) for name in names]
        base = path
    elif not os.path.lexists(path) and glob.has_magic(path):
        found = _glob(path).paths
        base = os.path.dirname(path[: path.index(next(char for char in path if char in "*?["))])
    else:
        found, base = [path], os.path.dirname(path)
    return [_file(one, os.path.relpath(one, base or os.curdir)) for one in sorted(found, key=natural)]


def list_folder(path: str, *, recursive: bool) -> list[tuple[str, int | None]]:
    """The regular files of a directory, as (path, bytes). Links to folders are not followed."""
    found = []
    for folder, _, names in os.walk(path, onerror=_fail):
        for one in (os.path.join(folder, name) for name in names):
            try:
                status = os.stat(one)
            except OSError:  # a dangling link, or somebody removed it
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((one, status.st_size))
        if not recursive:
            break
    return sorted(found, key=lambda one: natural(one[0]))


def _file(path: str, key: str) -> File:
    try:
        status = os.stat(path)
    except OSError as error:
        _fail(error)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("not a regular file", source=path)
    return File(key, status.st_size, LocalSource(path), version_of(status))


def version_of(status: os.stat_result) -> str:
    """What tells a file from what it was before: the same that the core compares."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _fail(error: OSError) -> NoReturn:
    path = os.fsdecode(error.filename)
    if isinstance(error, FileNotFoundError):
        raise NotFoundError("no such file", source=path, errno=error.errno) from None
    if isinstance(error, PermissionError):
        raise AuthError("permission denied: this user may not read it", source=path, errno=error.errno) from None
    raise StorageError(f"cannot read it: {error.strerror}", source=path, errno=error.errno) from None
