"""The interpreter ends while weightstream.runai reads from a storage that has stalled."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from checkpoints import blocks, write_file
from processes import command, environment
from servers.actions import Stall
from servers.scripted import ScriptedServer

PROGRAM = """
    import threading, time
    from weightstream.runai import FileChunks, FileStreamer, SafetensorsStreamer

    def ranges(streamer, url):
        streamer.stream_files([FileChunks.contiguous(0, url, 0, [100_000] * 60)])
        return streamer.get_chunks()

    def tensors(streamer, url):
        streamer.stream_file(url)
        return streamer.get_tensors()

    def consume():
        with STREAMER() as streamer:
            results = START(streamer, sys.argv[1])
            waits.set()
            try:
                for _ in results: ...
            except ValueError:
                pass  # it is closed at the end

    waits = threading.Event()
    threading.Thread(target=consume, daemon=True).start()
    waits.wait()
    time.sleep(0.3)  # until it does
    print(time.monotonic())
"""


@pytest.mark.parametrize(("streamer", "start"), [("FileStreamer", "ranges"), ("SafetensorsStreamer", "tensors")])
def test_an_exit_while_a_daemon_thread_waits(streamer: str, start: str, tmp_path: Path) -> None:
    program = PROGRAM.replace("STREAMER", streamer).replace("START", start)
    data = write_file(tmp_path / "m.safetensors", blocks(60, 100_000)).read_bytes()
    with ScriptedServer(data) as server:
        server.when(lambda request: request.number > 1, Stall(60))
        done = subprocess.run(
            command(program, server.url()), env=environment(), capture_output=True, text=True, timeout=60
        )
        ended = time.monotonic()
    assert (done.returncode, done.stderr) == (0, "")
    assert ended - float(done.stdout) < 10  # torch takes its time to end
