"""See weightstream.runai."""

from weightstream.runai import ObjectStorageModel, SafetensorsStreamer, list_safetensors, pull_files
from weightstream.runai.object_storage import SAFETENSORS_PATTERN

__all__ = ["SAFETENSORS_PATTERN", "ObjectStorageModel", "SafetensorsStreamer", "list_safetensors", "pull_files"]
