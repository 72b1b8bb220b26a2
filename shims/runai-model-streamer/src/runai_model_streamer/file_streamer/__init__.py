"""Ranges of files: see weightstream.runai."""

from weightstream.runai import FileChunks, FileStreamer

__all__ = ["FileChunks", "FileStreamer"]
