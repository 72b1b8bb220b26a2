"""Kernels, filesystems and sandboxes that refuse things: another way is found, and said once; limits are named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import refuse

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, write_file, write_shards
from processes import run

MIB = 2**20
FAULTS = str(Path(__file__).parent)
pytestmark = pytest.mark.usefixtures("no_leaks")


def evict(path: Path) -> None:
    """Asks the kernel to drop the file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def cold(tmp_path: Path) -> tuple[Path, dict[str, Raw]]:
    """A file that `auto` reads with io_uring and O_DIRECT, where that works."""
    tensors = blocks(16, MIB)
    path = write_file(tmp_path / "cold.safetensors", tensors)
    evict(path)
    with ws.stream(path, names=["t000"]) as stream:
        reason = stream.stats.reasons[str(path)]
    if "io_uring with O_DIRECT" not in reason:
        pytest.skip(f"no cold file here: {reason}")
    evict(path)
    return path, tensors


REFUSED = """
    import json, logging
    import numpy
    import weightstream as ws
    sys.path.insert(0, sys.argv[4])
    import refuse

    path, what, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelname, record.getMessage()))
    logging.getLogger("weightstream").addHandler(handler)
    logging.getLogger("weightstream").setLevel(logging.DEBUG)
    getattr(refuse, what)(number)

    contents = open(path, "rb", buffering=0)
    with ws.stream(path, framework="numpy") as stream:
        for name, tensor in stream:
            begin, end = stream.checkpoint[name].range
            contents.seek(begin)
            assert tensor.tobytes() == contents.read(end - begin)
    contents.close()
    print(json.dumps({**stream.stats.as_dict(), "lines": lines}))
"""


def refused(path: Path, what: str, number: int) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run(REFUSED, path, what, number, FAULTS))
    return result


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_io_uring_is_refused(cold: tuple[Path, dict[str, Raw]], number: int) -> None:
    path, _ = cold
    got = refused(path, "refuse_io_uring", number)
    reason = got["reasons"][str(path)]
    assert "io_uring" in reason
    assert os.strerror(number) in reason
    assert list(got["readers"]) == ["pread"]
    about = [text for level, text in got["lines"] if level == "INFO"]
    assert about == [reason]  # once


def test_io_uring_is_refused_though_asked_for(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(1, 10))
    program = """
        import errno
        import numpy
        import weightstream as ws
        sys.path.insert(0, sys.argv[2])
        import refuse

        refuse.refuse_io_uring(errno.EPERM)
        try:
            ws.stream(sys.argv[1], backend="uring", framework="numpy")
        except ws.ConfigError as error:
            print(error)
    """
    text = run(program, path, FAULTS)
    assert 'backend="uring" cannot work' in text
    assert 'use backend="auto"' in text


@pytest.mark.skipif(refuse.OPENAT is None, reason="the numbers of system calls are not known here")
def test_o_direct_is_refused(cold: tuple[Path, dict[str, Raw]]) -> None:
    path, _ = cold
    got = refused(path, "refuse_direct", errno.EINVAL)
    reason = got["reasons"][str(path)]
    assert "O_DIRECT is refused" in reason
    assert list(got["readers"]) == ["pread"]
    assert [text for level, text in got["lines"] if level == "INFO"] == [reason]  # once


@pytest.mark.skipif(refuse.OPENAT is None, reason="the numbers of system calls are not known here")
@pytest.mark.parametrize("backend", ["uring"])
def test_o_direct_is_refused_though_io_uring_is_asked_for(tmp_path: Path, backend: str) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(6, MIB))
    program = """
        import errno, logging
        import numpy
        import weightstream as ws
        sys.path.insert(0, sys.argv[3])
        import refuse

        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        refuse.refuse_direct(errno.EINVAL)
        with ws.stream(sys.argv[1], backend=sys.argv[2], framework="numpy", memory_limit="1MiB") as stream:
            assert sum(tensor.nbytes for _, tensor in stream) == stream.nbytes
    """
    lines = run(program, path, backend, FAULTS).splitlines()
    assert lines == [f"{path}: O_DIRECT is refused here (Invalid argument); reading through the page cache"]


@pytest.mark.parametrize("backend", ["auto", "pread", "uring"])
def test_a_filesystem_in_memory(backend: str) -> None:
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        pytest.skip("no /dev/shm")
    path = folder / f"weightstream-test-{os.getpid()}.safetensors"
    tensors = blocks(5, 700_001)
    try:
        write_file(path, tensors)
        with ws.stream(path, backend=backend, memory_limit="1MiB") as stream:
            assert_same(stream, tensors)
        if backend == "auto":
            assert list(stream.stats.readers) == ["pread"]
            assert " on tmpfs" in stream.stats.reasons[str(path)]
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 shards of a few KiB each, with an index."""
    tensors = blocks(300, 5000)
    files = {f"model-{i:05}-of-00300.safetensors": {name: tensors[name]} for i, name in enumerate(tensors)}
    folder = tmp_path_factory.mktemp("many") / "model"
    return write_shards(folder, files, "model.safetensors.index.json")


@pytest.mark.parametrize("backend", ["auto", "pread", "uring", "mmap"])
def test_more_shards_than_descriptors(many_shards: Path, backend: str) -> None:
    for path in many_shards.glob("*.safetensors"):
        evict(path)
    program = """
        import hashlib, resource
        import numpy
        import weightstream as ws

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        weights = ws.load(sys.argv[1], backend=sys.argv[2], framework="numpy")
        print(hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest())
    """
    expected = hashlib.sha256(b"".join(tensor.data for tensor in blocks(300, 5000).values())).hexdigest()
    assert run(program, many_shards, backend).strip() == expected


def test_no_descriptor_left(many_shards: Path) -> None:
    program = """
        import os, resource
        import numpy
        import weightstream as ws

        folder = sys.argv[1]
        path = os.path.join(folder, sorted(os.listdir(folder))[0])
        ws.load(path, framework="numpy")
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 64))
        try:
            ws.open(path)
        except ws.StorageError as error:
            print(error.errno, error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        ws.load(path, framework="numpy")
    """
    number, text = run(program, many_shards).split(" ", 1)
    assert int(number) == errno.EMFILE
    assert "this process may open" in text
    assert "ulimit -n" in text


def test_no_thread_left() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = write_file(Path(folder) / "m.safetensors", blocks(12, MIB))
        program = """
            import os, resource
            import numpy
            import weightstream as ws

            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)  # the limit does not hold for root
            before = resource.getrlimit(resource.RLIMIT_NPROC)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, before[1]))
            for backend in ("pread", "uring"):
                try:
                    ws.stream(sys.argv[1], framework="numpy", backend=backend, memory_limit="1MiB")
                except (ws.StorageError, ws.ConfigError) as error:
                    print(error)
            resource.setrlimit(resource.RLIMIT_NPROC, before)
            assert len(ws.load(sys.argv[1], framework="numpy")) == 12
        """
        pread, uring = run(program, path).splitlines()
    assert "cannot start a thread: Resource temporarily unavailable (look at `ulimit -u`" in pread
    assert "cannot start a thread" in uring or "uring" in uring
