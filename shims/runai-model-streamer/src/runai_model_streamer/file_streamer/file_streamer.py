"""See weightstream.runai."""

from weightstream.runai import FileChunks, FileStreamer
from weightstream.runai._errors import RunaiStreamerInvalidInputException

__all__ = ["FileChunks", "FileStreamer", "RunaiStreamerInvalidInputException"]
