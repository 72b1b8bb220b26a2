"""`weightstream pull` from each storage, and what becomes of a pull that is killed, or is not the only one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, pattern, raw, write_shards
from processes import command, core_threads, wait_until
from processes import environment as variables
from servers.actions import Head, Status
from servers.azurite import KEY, AzureServer
from servers.gcs import GcsServer
from servers.hub import Hub
from servers.messages import plain
from servers.nginx import TOKEN, NginxServer
from servers.s3 import READER, REGION, S3Server
from servers.scripted import ScriptedServer
from weightstream._pull import Pulled, pull
from weightstream._pull.part import PIECE

INDEX = "model.safetensors.index.json"
SHARDS = {
    "model-1.safetensors": {"a": raw("U8", (3_000_001,), 1), "b": raw("BF16", (5, 7), 2)},
    "model-2.safetensors": {"c": raw("F32", (2 * PIECE // 4 + 3,), 3)},
}
PULLING = """
import sys, time
from weightstream._pull import part, pull
part.SAVE_SECONDS = 0
write = part.Part.write
def slow(self, begin, data):
    time.sleep(float(sys.argv[3]))
    return write(self, begin, data)
part.Part.write = slow
done = pull(sys.argv[1], sys.argv[2])
print(done.files, done.skipped, done.kept_bytes, done.bytes)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_shards(tmp_path_factory.mktemp("pull") / "model", SHARDS, INDEX)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab with blank+plus.txt").write_bytes(pattern(70_000, 9))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {key: path.read_bytes() for key, path in found.items() if not key.startswith(".weightstream/")}


def tensors() -> dict[str, Raw]:
    return {name: tensor for shard in SHARDS.values() for name, tensor in shard.items()}


def check_pulls(location: str, model: Path, dest: Path, options: dict[str, Any]) -> Pulled:
    """All files come over exactly, and a second time none does; the copy loads."""
    files = contents(model)
    size = sum(map(len, files.values()))
    done = pull(location, dest, storage_options=options)
    assert contents(dest) == files
    assert (done.files, done.bytes, done.skipped) == (len(files), size, 0)
    again = pull(location, dest, storage_options=options)
    assert (again.files, again.skipped) == (0, len(files))
    assert_same(ws.load(dest, framework="numpy"), tensors())
    assert core_threads() == []
    secrets = ("Signature", READER.secret_key, KEY, TOKEN, "sig=")
    left = "".join(path.read_text() for path in (dest / ".weightstream").iterdir())
    assert [secret for secret in secrets if secret in left] == []
    return done


def s3_options(s3: S3Server) -> dict[str, Any]:
    return {
        "endpoint_url": s3.endpoint,
        "region_name": REGION,
        "aws_access_key_id": READER.access_key,
        "aws_secret_access_key": READER.secret_key,
        "config": {"s3": {"addressing_style": "path"}},
    }


def test_from_s3(s3: S3Server, model: Path, tmp_path: Path) -> None:
    location = s3.upload(model, "models", "pulled")
    check_pulls(location, model, tmp_path / "dest", s3_options(s3))
    # An object that was replaced has another ETag, also when its size is the same.
    s3.put("models", "pulled/config.json", b"[]")
    done = pull(location, tmp_path / "dest", storage_options=s3_options(s3))
    assert (done.files, done.bytes) == (1, 2)
    assert (tmp_path / "dest" / "config.json").read_bytes() == b"[]"


def test_from_azure(azure: AzureServer, model: Path, tmp_path: Path) -> None:
    location = azure.upload(model, "pulled")
    check_pulls(location, model, tmp_path / "dest", {"account_url": azure.account_url, "account_key": KEY})


def test_from_gcs(gcs: GcsServer, model: Path, tmp_path: Path) -> None:
    location = gcs.upload(model, "pulled")
    check_pulls(location, model, tmp_path / "dest", {"endpoint_url": gcs.endpoint, "anonymous": True})


def test_from_the_hub(hub: Hub, model: Path, tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    environment.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    environment.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    files = contents(model)
    hub.commit("org/llm", files)
    check_pulls("hf://org/llm", model, tmp_path / "dest", {"endpoint": hub.api.origin})
    # A commit that changes one file brings that file only.
    hub.commit("org/llm", {**files, "config.json": b"[]"})
    done = pull("hf://org/llm", tmp_path / "dest", storage_options={"endpoint": hub.api.origin})
    assert (done.files, done.bytes) == (1, 2)
    huggingface_hub.close_session()


def test_from_a_web_server_by_an_index(nginx: NginxServer, tmp_path: Path) -> None:
    folder = write_shards(nginx.root / "pulled", SHARDS, INDEX)
    options = {"verify": str(nginx.authority.bundle), "headers": {"Authorization": f"Bearer {TOKEN}"}}
    location = f"{nginx.https}/private/pulled/{INDEX}"
    check_pulls(location, folder, tmp_path / "dest", options)
    # What was replaced has another ETag.
    (folder / INDEX).write_text((folder / INDEX).read_text() + " ")
    assert pull(location, tmp_path / "dest", storage_options=options).files == 1


@pytest.mark.parametrize("change", [False, True], ids=["the same", "another"])
def test_a_pull_over_http_goes_on_in_the_same_version_only(tmp_path: Path, change: bool) -> None:
    data = pattern(5 * PIECE, 3)
    with ScriptedServer(data) as server:
        server.at(30, Status(403))  # reads are of a MiB towards the end
        with pytest.raises(ws.AuthError):
            pull(server.url(), tmp_path / "dest", concurrency=1)
        if change:
            data = pattern(5 * PIECE, 4)
            server.replace(data)
        done = pull(server.url(), tmp_path / "dest")
    assert done.bytes + done.kept_bytes == len(data)
    assert (done.kept_bytes > 0) is not change
    assert contents(tmp_path / "dest") == {"model.safetensors": data}


@pytest.mark.parametrize(("headers", "known"), [({"ETag": 'W/"1"'}, True), ({"ETag": None}, True)])
def test_versions_without_a_strong_etag(tmp_path: Path, headers: dict[str, str | None], known: bool) -> None:
    with ScriptedServer(b"{}") as server:
        server.when(lambda request: True, Head(headers))
        pull(server.url(), tmp_path / "dest")
        assert pull(server.url(), tmp_path / "dest").skipped == known
        server.heal()
        server.when(lambda request: True, Head({"ETag": None, "Last-Modified": None}))
        for _ in range(2):  # nothing says whether it is another one
            assert pull(server.url(), tmp_path / "dest").files == 1


def test_keys_that_lead_out_are_refused(tmp_path: Path) -> None:
    keys = ["m/config.json", "m/../../../evil.json"]
    listed = "".join(f"<Contents><Key>{key}</Key><Size>2</Size><ETag>e</ETag></Contents>" for key in keys)
    body = f"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>"
    with ScriptedServer(lambda request: plain(200, body, {"Content-Type": "application/xml"})) as server:
        options = {"endpoint_url": server.origin, "aws_access_key_id": "AK", "aws_secret_access_key": "SK"}
        options |= {"region_name": REGION, "config": {"s3": {"addressing_style": "path"}}}
        with pytest.raises(ws.FormatError, match=r"has a '\.' or '\.\.' in its path"):
            pull("s3://b/m", tmp_path / "in" / "dest", storage_options=options)
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_changes_while_it_is_pulled(
    s3: S3Server, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    s3.put("models", "changing/m.bin", pattern(PIECE, 1))
    from weightstream._pull import list_files as listed

    def change(*arguments: Any) -> Any:
        files = listed(*arguments)
        s3.put("models", "changing/m.bin", pattern(PIECE, 2))
        return files

    with environment.context() as patch:
        patch.setattr("weightstream._pull.list_files", change)
        with pytest.raises(ws.SourceChangedError):
            pull("s3://models/changing", tmp_path / "dest", storage_options=s3_options(s3))
    assert contents(tmp_path / "dest").keys() <= {"m.bin.part"}
    pull("s3://models/changing", tmp_path / "dest", storage_options=s3_options(s3))
    assert contents(tmp_path / "dest") == {"m.bin": pattern(PIECE, 2)}


def start(source: Path, dest: Path, seconds: float) -> subprocess.Popen[str]:
    """Pulls in a process of its own, with a pause before each piece."""
    return subprocess.Popen(
        command(PULLING, source, dest, seconds),
        env=variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda one: one.name)
def test_a_pull_that_is_ended_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    source = tmp_path / "big.bin"
    source.write_bytes(pattern(12 * PIECE + 77, 4))
    dest = tmp_path / "dest"
    process = start(source, dest, 0.3)
    wait_until(lambda: list(dest.glob(".weightstream/*.part.json")))
    process.send_signal(how)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == -how if how == signal.SIGKILL else "KeyboardInterrupt" in stderr
    assert sorted(contents(dest)) == ["big.bin.part"]
    done = pull(source, dest)
    assert PIECE <= done.kept_bytes < 12 * PIECE
    assert done.kept_bytes + done.bytes == source.stat().st_size
    assert contents(dest) == {"big.bin": source.read_bytes()}
    assert [path.suffixes for path in (dest / ".weightstream").iterdir()] == [[".json"]]


def test_several_pulls_at_once(model: Path, tmp_path: Path) -> None:
    """Each file is pulled by one process; the others wait for it, and find it complete."""
    dest = tmp_path / "dest"
    processes = [start(model, dest, 0.05) for _ in range(4)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    counts = [tuple(map(int, stdout.split())) for stdout, _ in said]
    files = len(contents(model))
    assert [pulled + skipped for pulled, skipped, _, _ in counts] == [files] * 4
    assert sum(pulled for pulled, _, _, _ in counts) == files
    assert contents(dest) == contents(model)


def test_a_pull_waits_for_one_that_dies(tmp_path: Path) -> None:
    source = tmp_path / "big.bin"
    source.write_bytes(pattern(6 * PIECE, 4))
    dest = tmp_path / "dest"
    first = start(source, dest, 0.5)
    wait_until(lambda: list(dest.glob(".weightstream/*.part.json")))
    second = start(source, dest, 0)
    wait_until(lambda: len(list(Path(f"/proc/{second.pid}/fd").iterdir())) > 4 and _waits(second.pid))
    first.kill()
    first.communicate()
    stdout, stderr = second.communicate(timeout=30)
    assert (second.returncode, stderr) == (0, "")
    files, skipped, kept, nbytes = map(int, stdout.split())
    assert (files, skipped, kept + nbytes) == (1, 0, 6 * PIECE)
    assert kept >= PIECE
    assert contents(dest) == {"big.bin": source.read_bytes()}


def _waits(pid: int) -> bool:
    """Whether the process waits for a lock."""
    return any(f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines() if "->" in line)


def test_the_command(s3: S3Server, model: Path, tmp_path: Path) -> None:
    from commands import run

    location = s3.upload(model, "models", "commanded")
    env = {**os.environ, "WEIGHTSTREAM_STORAGE_OPTIONS": json.dumps(s3_options(s3))}
    result = run("pull", location, tmp_path / "dest", "--json", "--exclude", "*.txt", env=env)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["source"], report["files"]) == (location, 4)
    assert_same(ws.load(tmp_path / "dest", framework="numpy"), tensors())
