"""The `weightstream` command. One module holds one subcommand; what they share is in `_common.py`.

Nothing here imports numpy, torch or rich until a subcommand needs it, so that help and completion answer at once.
"""

from __future__ import annotations

import click

from .._version import __version__
from ._common import Program
from .doctor import doctor
from .inspect import inspect
from .load import load
from .pull import pull

__all__ = ["main"]


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="weightstream")
def main() -> None:
    """Stream safetensors model weights from storage to memory.

    LOCATION is a safetensors file, several of them, a directory that holds a checkpoint, or a quoted glob.

    \b
    Exit status:
      0    all went well
      1    the checkpoint could not be loaded or read
      2    the command or one of its settings is wrong
      130  interrupted with Ctrl-C
      141  the reader of standard output went away
    """  # noqa: D301


main.add_command(load)
main.add_command(inspect)
main.add_command(pull)
main.add_command(doctor)
