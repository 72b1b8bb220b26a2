"""The Python API of the Run:ai model streamer, on weightstream.

>>> from weightstream.runai import SafetensorsStreamer
>>> with SafetensorsStreamer() as streamer:
...     streamer.stream_files(["model-1.safetensors", "model-2.safetensors"])
...     for name, tensor in streamer.get_tensors(): ...

Names, signatures, environment variables (RUNAI_STREAMER_*) and the log line are those of its version 0.17. What is
different is stronger: tensors are always the caller's, memory limits below the largest tensor work, and errors say
which file and which range. docs/guides/runai.md has the whole list. Streaming needs torch, which is imported when it
is first used; listing and copying files do not.
"""

from . import _log
from .credentials import S3Credentials
from .distributed_streamer import DistributedStreamer
from .file_streamer import FileChunks, FileStreamer
from .object_storage import list_safetensors, pull_files
from .object_storage_model import ObjectStorageModel
from .safetensors_metadata import prepare_request
from .safetensors_streamer import SafetensorsStreamer

__all__ = [
    "DistributedStreamer",
    "FileChunks",
    "FileStreamer",
    "ObjectStorageModel",
    "S3Credentials",
    "SafetensorsStreamer",
    "list_safetensors",
    "prepare_request",
    "pull_files",
]

_log.configure()
