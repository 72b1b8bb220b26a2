"""weightstream.runai on a real S3 server, in several processes, and by the import name of the Run:ai package."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import weightstream as ws
from checkpoints import Raw, assert_same, pattern, raw, write_shards
from fake_gpu import fake_gpu
from processes import command, environment, run
from servers.s3 import READER, REGION, STRANGER, S3Server
from weightstream.runai import (
    FileChunks,
    FileStreamer,
    ObjectStorageModel,
    S3Credentials,
    SafetensorsStreamer,
    list_safetensors,
    pull_files,
)

ROOT = Path(__file__).parents[2]
SHIM = ROOT / "shims" / "runai-model-streamer"
SHARDS = {
    "model-1.safetensors": {"a": raw("U8", (2_000_001,), 1), "b": raw("BF16", (5, 7), 2)},
    "model-2.safetensors": {"c": raw("F32", (300_003,), 3), "d": raw("F8_E4M3", (3, 1), 4)},
}
TENSORS: dict[str, Raw] = {name: tensor for shard in SHARDS.values() for name, tensor in shard.items()}
URL = "s3://models/runai"


@pytest.fixture(scope="module")
def files(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the model at URL."""
    folder = write_shards(tmp_path_factory.mktemp("runai") / "model", SHARDS, "model.safetensors.index.json")
    (folder / "config.json").write_bytes(b"{}")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_bytes(b'{"a": 1}')
    (folder / "tokenizer" / "merges.txt").write_bytes(pattern(1000, 1))
    (folder / "tokenizer" / "nested.safetensors").write_bytes(b"not listed")
    s3.upload(folder, "models", "runai")
    s3.put("models", "runai/", b"")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def by_variables(s3: S3Server, environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The server by the variables that the Run:ai package's documentation gives for compatible storage."""
    for variable, value in variables(s3).items():
        environment.setenv(variable, value)
    return environment


def variables(s3: S3Server) -> dict[str, str]:
    return {
        **READER.environment,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }


def credentials(s3: S3Server, keys: Any = READER) -> S3Credentials:
    return S3Credentials(keys.access_key, keys.secret_key, region_name=REGION, endpoint=s3.endpoint)


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {key: path.read_bytes() for key, path in found.items() if not key.startswith(".weightstream/")}


@pytest.mark.parametrize("limit", [None, "-1", "0", "1000"])
def test_streams_what_it_lists(limit: str | None, files: dict[str, bytes], by_variables: pytest.MonkeyPatch) -> None:
    if limit is not None:
        by_variables.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    listed = list_safetensors(URL)
    assert listed == [f"{URL}/model-1.safetensors", f"{URL}/model-2.safetensors"] == list_safetensors(f"{URL}/")
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(listed)
        assert sum(map(len, streamer.files_to_tensors_metadata.values())) == len(TENSORS)
        kept = list(streamer.get_tensors())
    assert_same(dict(kept), TENSORS)


def test_credentials_of_the_caller(s3: S3Server, files: dict[str, bytes], environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
    (first, _) = list_safetensors(URL, credentials(s3))
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(first, credentials(s3))
        assert_same(dict(streamer.get_tensors()), SHARDS["model-1.safetensors"])
    with SafetensorsStreamer() as streamer, pytest.raises(ValueError) as raised:
        streamer.stream_file(first, credentials(s3, STRANGER))
    assert isinstance(raised.value, ws.AuthError)
    assert STRANGER.secret_key not in str(raised.value)


def test_ranges_of_objects(files: dict[str, bytes], by_variables: pytest.MonkeyPatch) -> None:
    """Of objects of any name; each path is one object, also where a folder is called like it."""
    whole = files["model-1.safetensors"]
    index = files["model.safetensors.index.json"]
    requests = [
        FileChunks(5, f"{URL}/model-1.safetensors", [1_500_000, 0, 8], [400_000, 8, 0]),
        FileChunks(6, f"{URL}/model.safetensors.index.json", [0], [len(index)]),
        FileChunks(7, f"{URL}/tokenizer/merges.txt", [10], [20]),
    ]
    with FileStreamer() as streamer:
        streamer.stream_files(requests)
        found = {(id, number): buffer.numpy().tobytes() for id, number, buffer in streamer.get_chunks()}
        streamer.stream_files([FileChunks(0, f"{URL}/config.json", [1], [2])])
        with pytest.raises(ValueError, match="ends before the range does"):
            list(streamer.get_chunks())
    assert found == {
        (5, 0): whole[1_500_000:1_900_000],
        (5, 1): whole[:8],
        (5, 2): b"",
        (6, 0): index,
        (7, 0): files["tokenizer/merges.txt"][10:30],
    }


def test_listing(files: dict[str, bytes], by_variables: pytest.MonkeyPatch) -> None:
    streamer = FileStreamer()
    assert dict(streamer.list_files(URL)) == {f"{URL}/{key}": len(data) for key, data in files.items()}
    top = streamer.list_files(URL, is_recursive=False, ignore_patterns=["*.json"])
    assert [path for path, _ in top] == [f"{URL}/model-1.safetensors", f"{URL}/model-2.safetensors"]
    patterns = ["s3://*/config.json", "runai/tokenizer/*", "*.txt"]  # are matched with whole URLs
    assert dict(streamer.list_files(URL, allow_patterns=patterns)).keys() == {
        f"{URL}/config.json",
        f"{URL}/tokenizer/merges.txt",
    }
    assert streamer.list_files("s3://models/nothing-here") == []
    assert list_safetensors("s3://models/nothing-here") == []
    with pytest.raises(ValueError) as raised:
        list_safetensors("s3://no-such-bucket/x")
    assert isinstance(raised.value, (ws.NotFoundError, ws.AuthError))


@pytest.mark.parametrize(
    ("allow", "ignore", "expected"),
    [
        (None, None, None),
        (["*.model", "*.py", "*.json"], None, {"config.json", "model.safetensors.index.json", "tokenizer/vocab.json"}),
        (
            None,
            ["*.pt", "*.safetensors", "*.bin"],
            {"config.json", "model.safetensors.index.json", "tokenizer/vocab.json", "tokenizer/merges.txt"},
        ),
        (["runai/tokenizer/*"], ["*.safetensors"], {"tokenizer/vocab.json", "tokenizer/merges.txt"}),
        (["config.json"], None, set()),  # patterns are matched with whole keys
        (["*.nothing"], None, set()),
        ([], None, set()),
    ],
)
def test_patterns_of_pull(
    allow: list[str] | None,
    ignore: list[str] | None,
    expected: set[str] | None,
    files: dict[str, bytes],
    by_variables: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for url in (URL, f"{URL}/"):
        pull_files(url, str(tmp_path / "to"), allow, ignore)
    wanted = {key: data for key, data in files.items() if expected is None or key in expected}
    assert contents(tmp_path / "to") == wanted


def test_pull_with_credentials_and_of_nothing(
    s3: S3Server, files: dict[str, bytes], environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
    pull_files(URL, str(tmp_path / "to"), ["*.json"], None, credentials(s3))
    assert (tmp_path / "to" / "config.json").read_bytes() == files["config.json"]
    with pytest.raises(ValueError, match="there is nothing with this prefix") as raised:
        pull_files("s3://models/nothing-here", str(tmp_path / "to"), s3_credentials=credentials(s3))
    assert isinstance(raised.value, ws.NotFoundError)


def test_processes_that_want_the_same_model(s3: S3Server, files: dict[str, bytes], tmp_path: Path) -> None:
    program = """
        from weightstream.runai import ObjectStorageModel
        with ObjectStorageModel(model_path=sys.argv[1], dst=sys.argv[2]) as model:
            model.pull_files(allow_pattern=["*.json"])
            model.pull_files(ignore_pattern=["*.json", "*.safetensors"])
        print(int(model._skip))
    """
    dst = tmp_path / "cache" / "model"
    (dst / "stale").mkdir(parents=True)
    processes = [
        subprocess.Popen(command(program, URL, dst), env=environment(**variables(s3)), stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    skipped = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(map(int, skipped)) == [0, 1, 1]
    wanted = {key: data for key, data in files.items() if not key.endswith(".safetensors")}
    assert contents(dst) == {**wanted, ObjectStorageModel.SENTINEL_NAME: b""}


@pytest.mark.parametrize("limit", [None, "-1", "0", "100"])
def test_to_a_device(limit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are copied to it while the next are read, at any limit; the driver is the tests' own."""
    if limit is not None:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    folder = write_shards(tmp_path / "model", SHARDS)
    with fake_gpu(monkeypatch) as gpu:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(list_safetensors(str(folder)))
            kept = dict(streamer.get_tensors())
        assert_same(kept, TENSORS)
        assert gpu.counts().copied_bytes >= sum(len(tensor.data) for tensor in TENSORS.values())
        del kept
        gc.collect()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_each_rank_of_a_group_gets_everything(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "model", SHARDS)

    def work(rank: int, distributed: str) -> None:
        os.environ["RUNAI_STREAMER_DIST"] = distributed
        logging.getLogger("runai_model_streamer").handlers = [logging.FileHandler(tmp_path / f"log-{rank}")]
        meeting = f"file://{tmp_path}/meeting"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(list_safetensors(str(folder)), is_distributed=True)
            assert_same(dict(streamer.get_tensors()), TENSORS)
        torch.distributed.destroy_process_group()

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=work, args=arguments) for arguments in enumerate(("auto", "0"))]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    warned = ["each of the 2 ranks reads all" in (tmp_path / f"log-{rank}").read_text() for rank in (0, 1)]
    assert warned == [True, False]


# By the import name.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that pip has installed the distribution to."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--no-compile", "--target", folder, SHIM], check=True, timeout=100)
    return str(folder)


AS_ENGINES_DO = """
    import json, sys
    sys.path.insert(0, sys.argv[3])
    from runai_model_streamer import ObjectStorageModel, SafetensorsStreamer, list_safetensors, pull_files
    url, folder = sys.argv[1], sys.argv[2]
    pull_files(url + "/", folder, ["*.model", "*.py", "*.json"], None)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list_safetensors(path=url), device="cpu", is_distributed=False)
        total = sum(len(tensors_meta) for tensors_meta in streamer.files_to_tensors_metadata.values())
        found = {name: str(tuple(tensor.shape)) for name, tensor in streamer.get_tensors()}
    assert total == len(found)
    print(json.dumps(found))
"""


MODULES = {
    "": "DistributedStreamer FileChunks FileStreamer ObjectStorageModel SafetensorsStreamer list_safetensors",
    ".safetensors_streamer.safetensors_streamer": "SafetensorsStreamer ObjectStorageModel list_safetensors pull_files",
    ".safetensors_streamer.safetensors_pytorch": "prepare_request create_torch_tensor SafetensorMetadata",
    ".file_streamer": "FileStreamer FileChunks",
    ".file_streamer.file_streamer": "FileStreamer RunaiStreamerInvalidInputException",
    ".file_streamer.requests_iterator": "FileChunks RunaiStreamerMemoryLimitException",
    ".distributed_streamer": "DistributedStreamer",
    ".distributed_streamer.distributed_streamer": "DistributedStreamer",
    ".s3_utils.s3_utils": "S3Credentials is_s3_path is_gs_path is_azure_path",
}


def test_every_module_that_programs_import_from(site: str) -> None:
    program = """
        import importlib, importlib.metadata, json
        sys.path.insert(0, sys.argv[1])
        for module, names in json.loads(sys.argv[2]).items():
            found = importlib.import_module("runai_model_streamer" + module)
            assert found.__file__.startswith(sys.argv[1]), found.__file__
            assert set(names.split()) <= set(found.__all__), module
            for name in found.__all__:
                assert name.isupper() or getattr(found, name).__module__.startswith("weightstream.runai"), name
        this = importlib.metadata.distribution("weightstream-runai-model-streamer")
        print(json.dumps([this.requires, this.version]))
    """
    needs, version = json.loads(run(program, site, json.dumps(MODULES)))  # no warning: only one of them is installed
    assert needs == ["weightstream[torch]"]
    assert version == ws.__version__


def test_an_engine_that_imports_the_other_name(
    s3: S3Server, files: dict[str, bytes], site: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        command(AS_ENGINES_DO, URL, tmp_path / "to", site),
        env=environment(**variables(s3), RUNAI_STREAMER_LOG_TO_STDERR="1"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: str(tensor.shape) for name, tensor in TENSORS.items()}
    assert "Overall time to stream" in done.stderr
    assert f"(weightstream {ws.__version__})" in done.stderr
    assert sorted(contents(tmp_path / "to")) == ["config.json", "model.safetensors.index.json", "tokenizer/vocab.json"]


def test_both_distributions_at_once_are_noticed(site: str, tmp_path: Path) -> None:
    other = tmp_path / "runai_model_streamer-0.17.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: runai-model-streamer\nVersion: 0.17.0\n")
    program = """
        import logging
        logging.basicConfig(stream=sys.stdout)
        sys.path[:0] = sys.argv[1:]
        import runai_model_streamer
    """
    said = run(program, site, tmp_path)
    assert "runai-model-streamer 0.17.0 is installed beside weightstream-runai-model-streamer" in said
