"""The Run:ai model streamer's import name, on weightstream: see weightstream.runai."""

from importlib.metadata import PackageNotFoundError, version
from logging import getLogger

from weightstream.runai import (
    DistributedStreamer,
    FileChunks,
    FileStreamer,
    ObjectStorageModel,
    SafetensorsStreamer,
    list_safetensors,
    pull_files,
)

__all__ = [
    "DistributedStreamer",
    "FileChunks",
    "FileStreamer",
    "ObjectStorageModel",
    "SafetensorsStreamer",
    "list_safetensors",
    "pull_files",
]


def _warn_of_the_other() -> None:
    try:
        other = version("runai-model-streamer")
    except PackageNotFoundError:
        return
    getLogger(__name__).warning(
        "runai-model-streamer %s is installed beside weightstream-runai-model-streamer, and both own the folder "
        "runai_model_streamer. Uninstall both, and install the one that is wanted",
        other,
    )


_warn_of_the_other()
