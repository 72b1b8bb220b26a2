"""See weightstream.runai."""

from weightstream.runai import FileChunks
from weightstream.runai._environment import MEMORY_LIMIT as RUNAI_STREAMER_MEMORY_LIMIT_ENV_VAR_NAME
from weightstream.runai._errors import RunaiStreamerMemoryLimitException

__all__ = ["RUNAI_STREAMER_MEMORY_LIMIT_ENV_VAR_NAME", "FileChunks", "RunaiStreamerMemoryLimitException"]
