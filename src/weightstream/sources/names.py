"""What a folder of a checkpoint holds, by the names in it: one rule for a directory and for a prefix of a bucket."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .._errors import ConfigError, FormatError
from .index import INDEX_SUFFIX

SUFFIX = ".safetensors"
DEFAULT_INDEX = "model" + INDEX_SUFFIX
NO_WEIGHTS = f"has no *{SUFFIX} file and no index"
_CONSOLIDATED = re.compile(r"consolidated\b.*\.safetensors")
_DIGITS = re.compile(r"(\d+)")
_MAGIC = re.compile(r"[*?\[]")
_GLOB_PARTS = re.compile(r"(\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\])")
_GLOB_MEANS = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Choice:
    """The index that counts, or else the shards, in the order in which they are streamed. Neither: no weights."""

    index: str | None
    shards: list[str]


def choose(names: Iterable[str], folder: str) -> Choice:
    """What a folder with these names in it stands for; `folder` is for messages.

    Raises:
        ConfigError: several indexes, and none has the default name.

    """
    ordered = sorted(names, key=natural)
    indexes = [name for name in ordered if name.endswith(INDEX_SUFFIX)]
    if DEFAULT_INDEX in indexes:
        return Choice(DEFAULT_INDEX, [])
    if len(indexes) == 1:
        return Choice(indexes[0], [])
    if indexes:
        raise ConfigError(
            f"the directory has several indexes, and none is {DEFAULT_INDEX}: {', '.join(indexes)}; name one of them",
            source=folder,
        )
    files = [name for name in ordered if name.endswith(SUFFIX)]
    # Some models come twice, as shards and as one consolidated file of the same weights under other names.
    return Choice(None, [name for name in files if not _CONSOLIDATED.fullmatch(name)] or files)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key that puts shard-2 before shard-10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(name)]


def has_magic(key: str) -> bool:
    """Whether it is a glob. What ends with "/" is a folder, whatever it is called: no file is."""
    return not key.endswith("/") and _MAGIC.search(key) is not None


def literal_prefix(pattern: str) -> str:
    """What every key that matches begins with."""
    magic = _MAGIC.search(pattern)
    return pattern[: magic.start()] if magic else pattern


def crosses_folders(pattern: str) -> bool:
    """Whether what matches may lie in folders below the literal prefix."""
    return "/" in pattern[len(literal_prefix(pattern)) :] or "**" in pattern


def matcher(pattern: str) -> re.Pattern[str]:
    """As of `glob`: ``*`` and ``?`` stay within a folder, ``**/`` is any number of folders.

    Raises:
        ConfigError: a set of characters that is none, as in ``[z-a]``.

    """
    out = []
    for part in _GLOB_PARTS.split(pattern):
        if part in _GLOB_MEANS:
            out.append(_GLOB_MEANS[part])
        elif _GLOB_PARTS.fullmatch(part):
            negated = part[1] in "!^"
            characters = re.sub(r"([\\\[\]^&~|])", r"\\\1", part[2 if negated else 1 : -1])
            out.append(f"(?!/)[{'^' if negated else ''}{characters}]")
        else:
            out.append(re.escape(part))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        raise ConfigError(f"{pattern!r} is not a valid glob") from None


def check_key(key: str, source: str) -> None:
    """A key becomes a part of a URL, and `pull` makes it a path: it must mean the same in all of them.

    Raises:
        FormatError: it has an empty part, ``.``, ``..``, a backslash, a NUL or a lone surrogate.

    """
    problem = None
    parts = key.split("/")
    if ".." in parts or "." in parts:
        problem = "has a '.' or '..' in its path"
    elif "" in parts:
        problem = "has an empty part in its path"
    elif "\\" in key:
        problem = "has a backslash"
    elif "\0" in key or any("\ud800" <= char <= "\udfff" for char in key):
        problem = "has a NUL or a lone surrogate"
    if problem:
        raise FormatError(f"the key {key!r} {problem}, which is not the name of a file", source=source)
