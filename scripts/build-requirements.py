"""Print the build requirements in pyproject.toml, one a line. pip installs dependency groups, but not these."""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

pyproject = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
print("\n".join(pyproject["build-system"]["requires"]))
