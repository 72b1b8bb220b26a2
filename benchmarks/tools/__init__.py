"""The harness's own programs in C++, built by setup.sh into the environment."""

import sys
from pathlib import Path

FOLDER = Path(sys.prefix) / "benchmark-tools"
PACED_SERVER = FOLDER / "paced-server"
SOCKET_CLIENT = FOLDER / "libsocket-client.so"
