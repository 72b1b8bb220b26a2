"""The interpreter ends while copies to a device are under way that outlived their stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints import blocks, write_file
from fake_gpu import library_path
from processes import run


@pytest.mark.parametrize("ends", ["while it is taken apart", "never"])
def test_copies_that_outlive_their_stream(ends: str, tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(40, 300_000))
    printed = run(
        """
        import time
        import pytest, torch
        import weightstream as ws
        from fake_gpu import fake_gpu
        from processes import core_threads, wait_until

        class GoesWithItsModule:
            def __init__(self, library, sleep):
                self.library, self.sleep = library, sleep

            def __del__(self):
                self.library.fake_pause(0)
                self.sleep(0.5)  # without the GIL

        path, ends = sys.argv[1:]
        context = fake_gpu(pytest.MonkeyPatch())
        gpu = context.__enter__()
        gpu.library.fake_pause(1)
        stream = ws.stream(path)
        wait_until(lambda: stream.stats.reads > 0 and gpu.library.fake_calls(b"cuMemcpyHtoDAsync_v2") > 0)
        stream.close()
        assert "ws-limbo" in core_threads()
        if ends != "never":
            last = GoesWithItsModule(gpu.library, time.sleep)
        print("ends")
        """,
        path,
        ends,
        FAKE_GPU_LIBRARY=str(library_path()),
    )
    assert printed == "ends\n"
