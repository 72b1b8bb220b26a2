"""weightstream in programs that load models their own way: they read by it, from any location.

`as_local_folder` is for every program that loads from a folder; the modules beside it are for one package each.
"""

from ._folder import as_local_folder

__all__ = ["as_local_folder"]
