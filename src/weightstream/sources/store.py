"""A client of one bucket, container or repository, and how a key of it becomes sources."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from .._errors import ConfigError, NotFoundError
from . import names
from .fetch import fetch
from .index import INDEX_SUFFIX, MAX_INDEX_BYTES, parse_weight_map, read_weight_map
from .remote import File, LocalSource, Source

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Entry:
    """An object as a listing has it. `version` is the storage's own, where that is not the ETag."""

    key: str
    size: int | None = None
    etag: str | None = None
    version: str | None = None


@dataclass
class Found:
    """Sources, and tensor name -> position among them where an index says so."""

    sources: list[Source]
    weight_map: dict[str, int] | None = None


class Store(abc.ABC):
    """One opened client: what lists also signs, so that endpoint and credentials are the same for both."""

    _asked = False
    lists = True  # whether `entries` finds anything; without it there are only files and indexes

    @abc.abstractmethod
    def name(self, key: str) -> str:
        """How messages call an object."""

    @abc.abstractmethod
    def entries(self, prefix: str, recursive: bool) -> Iterable[Entry]:
        """The objects whose keys begin with `prefix`; without `recursive` none that has a "/" after it."""

    @abc.abstractmethod
    def find(self, key: str) -> Entry:
        """What there is to know about one object. May leave it to the first read whether it is there.

        Raises:
            NotFoundError: it is not there.

        """

    def named(self, key: str) -> Entry:
        """An object that a location names.

        The service is asked for the first one only, which finds out whether endpoint, credentials and region are right;
        for each of hundreds of shards that would take too long.

        Raises:
            NotFoundError: it is not there.

        """
        if self._asked:
            return Entry(key)
        entry = self.find(key)
        self._asked = True
        return entry

    @abc.abstractmethod
    def source(self, entry: Entry) -> Source:
        """How to read an object."""

    def sources(self, entries: Sequence[Entry]) -> list[Source]:
        """As `source`, of many."""
        return [self.source(entry) for entry in entries]

    def sibling(self, index_key: str, shard: str) -> str:
        """The key of a shard that an index names."""
        return index_key[: index_key.rfind("/") + 1] + shard

    def plain(self, key: str) -> str:
        """A part of a key as a path has it."""
        return key

    def close(self) -> None:  # noqa: B027
        """Closes idle connections. Sources may still be renewed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def resolve(store: Store, key: str) -> Found:
    """The sources that a key stands for: an object, an index, a folder (a prefix), or a glob."""
    if store.lists and names.has_magic(key):
        return Found(store.sources(_matches(store, key)))
    if key.endswith(INDEX_SUFFIX):
        return _index(store, store.find(key), {})
    if key.endswith(names.SUFFIX) or not store.lists:
        return Found([store.source(store.named(key))])
    folder = _folder(key)
    below = {entry.key[len(folder) :]: entry for entry in store.entries(folder, recursive=False)}
    below = {name: entry for name, entry in below.items() if name and not name.endswith("/")}
    if not below:
        with _neither(store, key):
            return Found([store.source(_only(store, key))])
    choice = names.choose(below, store.name(folder))
    if choice.index:
        return _index(store, below[choice.index], {entry.key: entry for entry in below.values()})
    if not choice.shards:
        raise NotFoundError(f"the directory {names.NO_WEIGHTS}", source=store.name(folder))
    return Found(store.sources([below[name] for name in choice.shards]))


def list_files(store: Store, key: str) -> list[File]:
    """All files that a key stands for: those below a folder, those that match a glob, or the one object.

    Raises:
        FormatError: a key that is not the name of a file below the location, such as one with "..".

    """
    if not store.lists:
        base, entries = key[: key.rfind("/") + 1], [store.find(key)]
        if key.endswith(INDEX_SUFFIX):
            index = _read_index(store, entries[0])
            entries += [Entry(store.sibling(key, shard)) for shard in index.shards]
    elif names.has_magic(key):
        literal = names.literal_prefix(key)
        base, entries = literal[: literal.rfind("/") + 1], _matches(store, key)
    else:
        base = _folder(key)
        entries = [entry for entry in store.entries(base, recursive=True) if not _is_marker(entry, base)]
        if not entries:
            with _neither(store, key):
                base, entries = key[: key.rfind("/") + 1], [_only(store, key)]
    # Stores with real folders list them as empty objects.
    folders = {entry.key[:end] for entry in entries for end in _slashes(entry.key)}
    entries = [entry for entry in entries if entry.size != 0 or entry.key not in folders]
    keys = [store.plain(entry.key[len(base) :]) for entry in entries]
    for key, entry in zip(keys, entries, strict=True):
        names.check_key(key, store.name(entry.key))
    sources = store.sources(entries)
    return [
        File(key, entry.size, source, entry.etag or entry.version)
        for key, entry, source in zip(keys, entries, sources, strict=True)
    ]


def list_folder(store: Store, key: str, *, recursive: bool) -> list[tuple[str, int | None]]:
    """The objects below a folder, as (location, bytes).

    Raises:
        ConfigError: the storage lists nothing.

    """
    if not store.lists:
        raise ConfigError("this storage has no folders that can be listed; name the files", source=store.name(key))
    folder = _folder(key)
    entries = [entry for entry in store.entries(folder, recursive) if not _is_marker(entry, folder)]
    return [(store.name(entry.key), entry.size) for entry in sorted(entries, key=lambda one: names.natural(one.key))]


def _folder(key: str) -> str:
    return key if not key or key.endswith("/") else key + "/"


def _slashes(key: str) -> list[int]:
    return [place for place, char in enumerate(key) if char == "/"]


def _is_marker(entry: Entry, base: str) -> bool:
    """Consoles make an empty object for a folder that somebody created by hand."""
    return entry.key == base or entry.key.endswith("/")


def _only(store: Store, key: str) -> Entry:
    """The object of a key below which nothing lies."""
    if not key or key.endswith("/"):
        raise NotFoundError("there is nothing with this prefix", source=store.name(key))
    return store.find(key)


@contextmanager
def _neither(store: Store, key: str) -> Iterator[None]:
    """Says of a key that was taken for a folder first that there is none either."""
    try:
        yield
    except NotFoundError as error:
        if key and not key.endswith("/"):
            error.message += f"; no file lies directly in a folder {store.name(key)}/ either"
        raise


def _matches(store: Store, pattern: str) -> list[Entry]:
    matches = names.matcher(pattern).fullmatch
    listed = store.entries(names.literal_prefix(pattern), recursive=names.crosses_folders(pattern))
    found = []
    for entry in listed:
        if entry.key == pattern:  # an object that is called like that is no glob
            return [entry]
        if matches(entry.key) and not entry.key.endswith("/"):
            found.append(entry)
    if not found:
        raise NotFoundError("no file matches", source=store.name(pattern))
    return sorted(found, key=lambda entry: names.natural(entry.key))


@dataclass(frozen=True)
class _Index:
    shards: list[str]
    weight_map: dict[str, str]


def _read_index(store: Store, index: Entry) -> _Index:
    source = store.source(index)
    if isinstance(source, LocalSource):
        weight_map = read_weight_map(source.path)
    else:
        weight_map = parse_weight_map(fetch(source, MAX_INDEX_BYTES), source.name)
    shards = sorted(set(weight_map.values()), key=names.natural)
    for shard in shards:
        names.check_key(shard, source.name)
    return _Index(shards, weight_map)


def _index(store: Store, index: Entry, known: dict[str, Entry]) -> Found:
    read = _read_index(store, index)
    entries = []
    for shard in read.shards:
        key = store.sibling(index.key, shard)
        if known and "/" not in shard and key not in known:
            message = f"there is no such object, but {store.name(index.key)} names it"
            raise NotFoundError(message, source=store.name(key))
        entries.append(known.get(key) or Entry(key))
    positions = {shard: position for position, shard in enumerate(read.shards)}
    return Found(store.sources(entries), {name: positions[shard] for name, shard in read.weight_map.items()})
