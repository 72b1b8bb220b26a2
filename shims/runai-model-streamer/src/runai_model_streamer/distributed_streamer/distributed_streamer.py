"""See weightstream.runai."""

from weightstream.runai import DistributedStreamer, FileChunks, FileStreamer

__all__ = ["DistributedStreamer", "FileChunks", "FileStreamer"]
