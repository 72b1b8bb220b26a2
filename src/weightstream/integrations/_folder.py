"""A model of any location as a local folder, for programs that load from folders: weights are streamed, not stored."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import _config, _log
from .._errors import ConfigError, NotFoundError
from .._patch import patch_safetensors
from ..sources import File, LocalSource, RemoteSource, Source, list_files
from ..sources.fetch import fetch
from ..sources.names import SUFFIX
from ..sources.remote import printable
from ..sources.stand_ins import standing_in
from ._web import MOST_BYTES, files_of_a_web_folder

# Weights in other formats, and pictures of a model's page: nothing that is needed beside safetensors files.
_LEFT_OUT = re.compile(
    r".*\.(bin|pt|pth|ckpt|pkl|h5|msgpack|ot|onnx|onnx_data|gguf|ggml|tflite|mlmodel|npz|zip|tar|gz"
    r"|png|jpg|jpeg|gif|webp|mp4|pdf)",
    re.IGNORECASE,
)
_WORKERS = 8


@contextmanager
def as_local_folder(
    location: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    variant: str | None = None,
) -> Iterator[str]:
    """A local folder that stands for the folder of a model, and `weightstream.patch_safetensors`, for a ``with`` block.

    Of a URL, the small files (configuration, tokenizer, index) are fetched into a temporary folder. The safetensors
    files are empty there: who reads one through the safetensors package while the block lasts, gets the tensors that
    are at the location, streamed. Nothing of the weights touches the disk. All files are of the version that was there
    when the block was entered. Of a local folder, or the name of a repository of the Hub (``"Qwen/Qwen3-0.6B"``), it is
    what was given, and only the patch is there.

    What is read lazily must be read within the block: "disk" in a device map of transformers needs the files later.

    Args:
        location: a folder: a path, or a URL (``s3://``, ``gs://``, ``az://``, ``hf://``, ``http(s)://``).
        storage_options: as in `weightstream.stream`.
        variant: of the names of the weights' files on a web server, which does not list them: ``"fp16"`` for
            ``model.fp16.safetensors``.

    Raises:
        NotFoundError, AuthError, ConfigError: the folder cannot be read.
        ThrottledError, ServerError, ProtocolError, TimeoutError: a storage service that fails, or cannot be reached.

    Example:
        >>> with as_local_folder("s3://models/minilm") as folder:
        ...     model = SentenceTransformer(folder)

    """
    path = loaded_as_it_is(location)
    if path is not None:
        if storage_options:
            raise ConfigError("storage_options are for URLs; this is a local folder or a repository's name")
        with patch_safetensors():
            yield path
        return
    where = os.fspath(location)
    options = _config.resolve(names=(), storage_options=storage_options).storage_options
    files, contents = _files(where, options, variant)
    if not any(file.key.endswith(SUFFIX) for file in files):
        raise NotFoundError(f"the folder has no *{SUFFIX} file; other formats are not read", source=printable(where))
    with tempfile.TemporaryDirectory(prefix="weightstream-") as temporary:
        folder = os.path.realpath(temporary)
        stand_ins = _fill(Path(folder), files, contents)
        fetched = sum(len(names) for _, _, names in os.walk(folder)) - len(stand_ins)
        _log.logger.info("%s: %d files are fetched, %d are streamed", printable(where), fetched, len(stand_ins))
        with standing_in(stand_ins), patch_safetensors():
            yield folder


def loaded_as_it_is(location: str | os.PathLike[str]) -> str | None:
    """The path of a local folder, or the name of a repository; None where a folder is made that stands for a URL.

    Raises:
        ConfigError: it is no location, or on another host.

    """
    where = os.fspath(location)
    if not isinstance(where, str):
        raise ConfigError(f"a location is a path or a URL, not {type(location).__name__}")
    if where.startswith("file://"):
        where = _path_of(where)
    return None if "://" in where else where


def _path_of(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{url!r} names a folder on another host; only file:///path works")
    return unquote(parts.path)


def _files(url: str, options: Mapping[str, Any], variant: str | None) -> tuple[list[File], dict[str, bytes]]:
    """The files of a folder, and what is known already of their contents."""
    if url.partition("://")[0].lower() in ("http", "https"):
        return files_of_a_web_folder(url, options, variant)
    return list_files(url, options), {}


def _fill(folder: Path, files: Sequence[File], contents: Mapping[str, bytes]) -> dict[str, Source]:
    """Puts the files into the folder, and returns what stands for which source there."""
    stand_ins: dict[str, Source] = {}
    small: dict[Path, RemoteSource] = {}
    for file in files:
        path = folder / file.key
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.key.endswith(SUFFIX):
            # Empty, so that who reads it past the safetensors package gets an error, and no zeros.
            path.touch()
            stand_ins[str(path)] = file.source
        elif _LEFT_OUT.fullmatch(path.name) or (file.size or 0) > MOST_BYTES:
            _log.logger.debug("left out: %s", file.source.name)
        elif isinstance(file.source, LocalSource):  # in the Hub's cache
            path.symlink_to(os.path.realpath(file.source.path))
        else:
            small[path] = file.source
    with ThreadPoolExecutor(_WORKERS, "weightstream-folder") as pool:
        for path, data in zip(small, pool.map(lambda source: fetch(source, MOST_BYTES), small.values()), strict=True):
            path.write_bytes(data)
    for key, data in contents.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return stand_ins
