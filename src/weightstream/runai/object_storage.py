"""Listing and copying the files of a model: list_safetensors and pull_files."""

from __future__ import annotations

import os

from .. import _config
from .._pull import METADATA
from .._pull import pull_files as pull
from ..sources import list_files, list_folder
from . import _environment
from ._errors import as_value_errors
from .credentials import S3Credentials, is_remote_path, storage_options
from .file_streamer import selected

SAFETENSORS_PATTERN = "*.safetensors"


def list_safetensors(path: str, s3_credentials: S3Credentials | None = None) -> list[str]:
    """The safetensors files that lie directly in a folder or prefix, in natural order; [] where there are none.

    Args:
        path: a local folder, or a URL.
        s3_credentials: for an ``s3://`` path.

    Raises:
        ValueError: it cannot be listed; it is also an error of `weightstream`.

    Example:
        >>> list_safetensors("s3://models/llama")
        ['s3://models/llama/model-1.safetensors', 's3://models/llama/model-2.safetensors']

    """
    remote = is_remote_path(path)
    if not remote and not os.path.isdir(path.removeprefix("file://")):
        return []
    hidden = None if remote else [".*"]  # as of a shell's globs
    with as_value_errors():
        found = list_folder(path, storage_options([path], s3_credentials), recursive=False)
    return [file for file, _ in found if selected(os.path.basename(file), [SAFETENSORS_PATTERN], hidden)]


def pull_files(
    model_path: str,
    dst: str,
    allow_pattern: list[str] | None = None,
    ignore_pattern: list[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """Copies the files below a prefix into a folder, those of its folders too, unless they are there already.

    Several processes may copy to the same folder, and a copy that was interrupted goes on where it was.

    Args:
        model_path: a URL: a bucket, or a prefix in it.
        dst: the folder; it is made if it is not there.
        allow_pattern: globs of keys: only files that match one. "*" matches "/" too. No match is no error.
        ignore_pattern: globs of keys: not those that match one.
        s3_credentials: for an ``s3://`` path.

    Raises:
        NotImplementedError: a local path.
        ValueError: there is nothing at `model_path`, or it cannot be read or written; it is also an error of
            `weightstream`.

    Example:
        >>> pull_files("s3://models/llama", "/scratch/llama", ignore_pattern=["*.safetensors", "*.bin"])

    """
    if not is_remote_path(model_path):
        raise NotImplementedError(f"{model_path!r} is on this machine already: pull_files copies from a URL")
    if not model_path.endswith("/"):
        model_path += "/"
    prefix = model_path.partition("://")[2].partition("/")[2]
    with as_value_errors():
        settings = _config.resolve(
            memory_limit=_environment.memory_limit(),
            concurrency=_environment.concurrency(),
            storage_options=storage_options([model_path], s3_credentials),
        )
        files = [
            file
            for file in list_files(model_path, settings.storage_options)
            if file.key.partition("/")[0] != METADATA and selected(prefix + file.key, allow_pattern, ignore_pattern)
        ]
        if files:
            pull(files, dst, settings)
