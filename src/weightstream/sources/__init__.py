"""From a location to readable sources. What leaves here is plain: paths, URLs, and what an index says about them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Union

from .._errors import ConfigError, FormatError
from . import local, stand_ins
from .description import Description
from .remote import TRANSPORT_OPTIONS, Access, File, LocalSource, RemoteSource, Source, Transport, printable

__all__ = [
    "Access",
    "Description",
    "File",
    "LocalSource",
    "Location",
    "RemoteSource",
    "Resolved",
    "Source",
    "Transport",
    "describe",
    "files_of",
    "list_files",
    "list_folder",
    "resolve",
]

Location = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

# The module that knows a scheme. Each has OPTIONS, the names that it takes in storage_options; split(location) into
# the root of a store and a key; connect(root, options), which opens the store; and describe(root, key, options).
_BACKENDS = {
    "s3": "s3",
    "gs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "http": "http",
    "https": "http",
    "hf": "hf",
}


@dataclass
class Resolved:
    """The sources of a checkpoint.

    Attributes:
        sources: in the order in which they are streamed.
        weight_map: tensor name -> position in `sources`, as an index says; None without an index.

    """

    sources: list[Source] = field(default_factory=list)
    weight_map: dict[str, int] | None = None


def resolve(location: Location, storage_options: Mapping[str, Any]) -> Resolved:
    """Finds the sources of `location`: a file, an index, a directory, a glob, or a sequence of these.

    Each may be a local path or a URL: ``s3://``, ``gs://``, ``az://``, ``http://``, ``https://`` or ``hf://``.

    Raises:
        NotFoundError: nothing is there.
        AuthError: a directory, a bucket or an index may not be read.
        FormatError: an index that is not valid, or two that differ on a tensor.
        ConfigError: a location that cannot be resolved: an unknown scheme, an empty list, an ambiguous directory; or
            storage_options that none of the locations takes.
        ThrottledError, ServerError, TimeoutError: a storage service that fails or cannot be reached.

    """
    from .store import resolve as resolve_key

    resolved = Resolved()
    positions: dict[str, int] = {}
    sources: list[Source]
    weight_map: dict[str, int] | None
    with _Stores(location, storage_options) as stores:
        for part in stores.parts:
            stand_in = stores.stand_ins.get(part)
            if stand_in is not None:
                sources, weight_map = [stand_in], None
            elif _SCHEME.match(part):
                found = resolve_key(*stores.of(part))
                sources, weight_map = found.sources, found.weight_map
            else:
                sources, weight_map = _local(part)
            for source in sources:
                if positions.setdefault(_identity(source), len(resolved.sources)) == len(resolved.sources):
                    resolved.sources.append(source)
            if weight_map is not None:
                resolved.weight_map = resolved.weight_map or {}
                for name, shard in weight_map.items():
                    position = positions[_identity(sources[shard])]
                    if resolved.weight_map.setdefault(name, position) != position:
                        raise FormatError(
                            f"tensor {name!r} is in two indexes, from different shards; load them one by one"
                        )
    return resolved


def list_files(location: Location, storage_options: Mapping[str, Any]) -> list[File]:
    """All files of `location`, not only weights: those below a directory or prefix, or the file itself.

    Raises:
        FormatError: a key that is not the name of a file below the location, such as one with "..".
        ConfigError: two files would have the same key; and as `resolve`.
        NotFoundError, AuthError, ThrottledError, ServerError, TimeoutError: as `resolve`.

    """
    from .store import list_files as list_keys

    files: dict[str, File] = {}
    with _Stores(location, storage_options) as stores:
        for part in stores.parts:
            for file in list_keys(*stores.of(part)) if _SCHEME.match(part) else local.list_files(part):
                if files.setdefault(file.key, file) is not file:
                    raise ConfigError(f"two of the locations have a file {file.key!r}; copy them one by one")
    return list(files.values())


def files_of(locations: Sequence[str], storage_options: Mapping[str, Any]) -> list[Source]:
    """The one file or object that each location names, whatever it holds: no folders, no indexes, no globs.

    Raises:
        ConfigError, NotFoundError, AuthError, ThrottledError, ServerError, TimeoutError: as `resolve`. Local files are
            not looked at.

    """
    found: list[Source] = []
    with _Stores(locations, storage_options) as stores:
        for part in stores.parts:
            if _SCHEME.match(part):
                store, key = stores.of(part)
                found.append(store.source(store.named(key)))
            else:
                found.append(LocalSource(part))
    return found


def list_folder(location: str, storage_options: Mapping[str, Any], *, recursive: bool) -> list[tuple[str, int | None]]:
    """The files of a folder or prefix, as (location, bytes) in natural order; bytes are None where a listing has none.

    A prefix that nothing lies below is an empty one.

    Raises:
        NotFoundError, AuthError, StorageError: a local folder that is not there, or may not be read.
        ConfigError: a storage that lists nothing; and as `resolve`.
        ThrottledError, ServerError, TimeoutError: as `resolve`.

    """
    from .store import list_folder as list_keys

    with _Stores(location, storage_options) as stores:
        (part,) = stores.parts
        if _SCHEME.match(part):
            return list_keys(*stores.of(part), recursive=recursive)
        return local.list_folder(part, recursive=recursive)


def describe(location: str, storage_options: Mapping[str, Any]) -> Description | None:
    """How one location is reached, for people; None for a local one.

    Raises:
        ConfigError: as `resolve`; or a setting cannot work, or the SDK is not installed.

    """
    with _Stores(location, storage_options) as stores:
        (part,) = stores.parts
        return stores.describe(part) if _SCHEME.match(part) else None


class _Stores:
    """The parts of a location, and the store of each; one store per bucket, opened once, closed at the end."""

    def __init__(self, location: Location, storage_options: Mapping[str, Any]) -> None:
        parts: Sequence[Any] = [location] if isinstance(location, (str, os.PathLike)) else location
        if not isinstance(parts, Sequence) or type(parts) in (bytes, bytearray):
            raise ConfigError(f"a location is a path or a sequence of paths, not {type(location).__name__}")
        if not parts:
            raise ConfigError("the location is an empty list; name at least one file")
        self.parts = [_part(part) for part in parts]
        self.stand_ins = {part: source for part in self.parts if (source := stand_ins.source_of(part)) is not None}
        if len(self.stand_ins) == len(set(self.parts)):
            storage_options = {}  # each was found with its own
        self._options = storage_options
        self._opened: dict[tuple[str, str], Any] = {}
        schemes = dict.fromkeys(match[1].lower() for match in map(_SCHEME.match, self.parts) if match)
        self._modules = {scheme: import_module(f".{_BACKENDS[scheme]}", __name__) for scheme in schemes}
        if storage_options and not schemes:
            raise ConfigError(f"local files take no storage_options, but these were given: {_names(storage_options)}")
        known = TRANSPORT_OPTIONS.union(*(module.OPTIONS for module in self._modules.values()))
        unknown = [name for name in storage_options if name not in known]
        if unknown:
            raise ConfigError(
                f"unknown storage_options for {', '.join(f'{scheme}://' for scheme in schemes)}: {_names(unknown)}; "
                f"there are {', '.join(sorted(known))}"
            )

    def of(self, part: str) -> tuple[Any, str]:
        """The store and the key of a URL."""
        scheme = part.partition("://")[0].lower()
        module = self._modules[scheme]
        root, key = module.split(part)
        if (scheme, root) not in self._opened:
            self._opened[scheme, root] = module.connect(root, self._options_of(scheme))
        return self._opened[scheme, root], key

    def describe(self, part: str) -> Description:
        """How a URL is reached."""
        scheme = part.partition("://")[0].lower()
        module = self._modules[scheme]
        described: Description = module.describe(*module.split(part), self._options_of(scheme))
        return described

    def _options_of(self, scheme: str) -> dict[str, Any]:
        """Those that it takes."""
        takes = TRANSPORT_OPTIONS | self._modules[scheme].OPTIONS
        return {name: value for name, value in self._options.items() if name in takes and value is not None}

    def __enter__(self) -> _Stores:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._opened.values():
            store.close()


def _names(options: Any) -> str:
    # Values may be secrets.
    return ", ".join(map(str, options))


def _part(part: Any) -> str:
    """A URL as it is, or a local path."""
    if not isinstance(part, (str, os.PathLike)):
        raise ConfigError(f"a location is a path or a sequence of paths; {part!r} is neither")
    path = os.fspath(part)
    if not isinstance(path, str):
        path = os.fsdecode(path)
    if not path:
        raise ConfigError("the location is an empty string")
    scheme = _SCHEME.match(path)
    if "\0" in path:
        raise ConfigError(f"a path must not contain a NUL character: {printable(path) if scheme else path!r}")
    if path.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        url = urlsplit(path)
        if url.netloc not in ("", "localhost"):
            raise ConfigError(f"{path!r} names a file on another host; only file:///path works")
        return unquote(url.path)
    if scheme and scheme[1].lower() not in _BACKENDS:
        raise ConfigError(
            f"{scheme[0]} locations are not supported; there are {', '.join(f'{name}://' for name in _BACKENDS)}, "
            "and local paths"
        )
    if not scheme and path.startswith("~") and not os.path.lexists(path):
        return os.path.expanduser(path)
    return path


def _local(path: str) -> tuple[list[Source], dict[str, int] | None]:
    found = local.resolve(path)
    sources: list[Source] = [LocalSource(path) for path in found.paths]
    if found.weight_map is None:
        return sources, None
    positions = {path: position for position, path in enumerate(found.paths)}
    return sources, {name: positions[path] for name, path in found.weight_map.items()}


def _identity(source: Source) -> str:
    """What tells two sources apart. The name of a URL lacks its query, which may be all that differs."""
    if isinstance(source, RemoteSource) and source.name.startswith(("http://", "https://")):
        return source.access.url
    return source.name
