"""``scheme://bucket/key``: taking it apart. Keys are taken as they stand: nothing in them is percent-decoded."""

from __future__ import annotations

import re

from .._errors import ConfigError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def split_bucket(location: str, form: str) -> tuple[str, str]:
    """The bucket and the key.

    Raises:
        ConfigError: there is no bucket, or the key is not one that means the same in a URL; `form` is in the message.

    """
    bucket, _, key = location.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket):
        # Before a slash may stand anything, also credentials.
        raise ConfigError(f"this is not of the form {form}: there is no valid bucket in it")
    check_location_key(key, location)
    return bucket, key


def check_location_key(key: str, location: str) -> None:
    """Refuses what HTTP clients would rewrite.

    Raises:
        ConfigError: the key has ``.``, ``..`` or an empty part, a backslash or a lone surrogate.

    """
    parts = key.removesuffix("/").split("/") if key else []
    if {"", ".", ".."} & set(parts):
        raise ConfigError("the path has an empty part, '.' or '..'; write it out", source=location)
    if "\\" in key or any("\ud800" <= char <= "\udfff" for char in key):
        raise ConfigError("the path has a backslash or a lone surrogate", source=location)
