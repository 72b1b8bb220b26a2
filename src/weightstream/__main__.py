"""`python -m weightstream` is the `weightstream` command."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="python -m weightstream")
