"""The ranks of a group: see weightstream.runai."""

from weightstream.runai import DistributedStreamer

__all__ = ["DistributedStreamer"]
