"""vLLM's plug-in against a stand-in of vLLM (tests/fake_vllm.py). tests/engines has vLLM itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fake_vllm
import weightstream as ws
from checkpoints import assert_same, blocks, write_shards
from weightstream.integrations.vllm import register

URL = "s3://models/llama"


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = fake_vllm.install(monkeypatch)
    register()
    return made


def loader(vllm: SimpleNamespace, load_format: str = "weightstream", **extra: Any) -> Any:
    return vllm.formats[load_format](fake_vllm.LoadConfig(load_format, extra))


def streamed(vllm: SimpleNamespace, made: Any, monkeypatch: pytest.MonkeyPatch, **config: Any) -> list[tuple[Any, ...]]:
    """The location, the storage_options and the device of each stream that loading a model starts."""
    calls: list[tuple[Any, ...]] = []

    def stream(location: Any, settings: Any, *, device: Any, **_: Any) -> Any:
        calls.append((location, settings.storage_options, device))
        return iter(())

    monkeypatch.setattr(sys.modules[type(made).__module__], "stream_weights", stream)
    config = {"model": "/cache/llama", "model_weights": URL, "revision": None, **config}
    list(made.get_all_weights(SimpleNamespace(**config), SimpleNamespace()))
    return calls


def test_without_vllm_registering_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    register()
    assert "does not work with this vLLM" in caplog.text
    assert "No module named 'vllm'" in caplog.text


def test_registering_adds_one_load_format(vllm: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    before = dict(vllm.formats)
    assert sorted(before) == ["runai_streamer", "weightstream"]
    assert before["runai_streamer"] is fake_vllm.DefaultModelLoader
    register()
    assert vllm.formats == before
    assert caplog.text == ""


def test_the_name_of_run_ai_is_taken_over_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_VLLM_RUNAI", "1")
    vllm = fake_vllm.install(monkeypatch, runai=True)
    register()
    assert vllm.formats["runai_streamer"].__name__ == "RunaiModelLoader"
    assert vllm.runai_utils.runai_pull_files is not None
    made = loader(vllm, "runai_streamer", distributed=True, memory_limit=0, concurrency=8)
    assert made._settings.keywords == {"memory_limit": 16 << 20, "concurrency": 8}
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "6")
    assert loader(vllm, "runai_streamer", memory_limit="1GiB")._settings.keywords == {
        "memory_limit": "1GiB",
        "concurrency": 6,
    }


def test_a_vllm_with_another_loader_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vllm = fake_vllm.install(monkeypatch)
    monkeypatch.delattr(fake_vllm.DefaultModelLoader, "get_all_weights")
    register()
    assert "DefaultModelLoader has no get_all_weights" in caplog.text
    assert sorted(vllm.formats) == ["runai_streamer"]


def test_a_setting_that_is_no_switch_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_vllm.install(monkeypatch)
    monkeypatch.setenv("WEIGHTSTREAM_VLLM_RUNAI", "maybe")
    register()
    assert "WEIGHTSTREAM_VLLM_RUNAI='maybe' is neither true nor false" in caplog.text


def test_a_model_in_an_object_store_is_accepted(vllm: SimpleNamespace) -> None:
    config = fake_vllm.VllmConfig("weightstream", URL)
    config.try_verify_and_update_config()
    assert config.load_config.load_format == "weightstream"
    with pytest.raises(ValueError, match="but got 'safetensors'"):
        fake_vllm.VllmConfig("safetensors", URL).try_verify_and_update_config()
    fake_vllm.VllmConfig("weightstream", "").try_verify_and_update_config()


def test_the_configuration_is_pulled_by_the_package_of_run_ai_where_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vllm = fake_vllm.install(monkeypatch, runai=True)
    register()
    assert vllm.runai_utils.runai_pull_files == "the package's"
    vllm = fake_vllm.install(monkeypatch)
    register()
    from weightstream.runai import pull_files

    assert vllm.runai_utils.runai_pull_files is pull_files


def test_the_files_of_a_folder(vllm: SimpleNamespace, tmp_path: Path) -> None:
    tensors = blocks(4, 1000)
    folder = write_shards(
        tmp_path / "model", {"a.safetensors": {"t000": tensors["t000"]}, "b.safetensors": {"t001": tensors["t001"]}}
    )
    config = SimpleNamespace(model=str(folder), model_weights="", revision=None)
    model = SimpleNamespace(secondary_weights=[fake_vllm.DefaultModelLoader.Source(str(folder), None, prefix="again.")])
    found = loader(vllm, concurrency=2).get_all_weights(config, model)
    expected = {name: tensors[name] for name in ("t000", "t001")}
    assert_same(found, expected | {f"again.{name}": tensor for name, tensor in expected.items()})


def test_names_are_filtered_before_anything_is_read(vllm: SimpleNamespace) -> None:
    made = loader(vllm)
    assert made._wanted(None) is None
    made.local_expert_ids = {2, 3}
    wanted = made._wanted(lambda name: name.endswith("3"))
    assert [name for name in ("expert.1", "expert.2", "expert.3") if wanted(name)] == ["expert.2"]


def test_an_encoder_alone_is_read_without_the_files_of_the_language_model(
    vllm: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = blocks(2, 100)
    folder = write_shards(tmp_path / "model", {f"{name}.safetensors": {name: tensors[name]} for name in tensors})
    made = loader(vllm)
    made._encoder_only_lm_prefixes = ("language.",)
    source = fake_vllm.DefaultModelLoader.Source(str(folder), None)
    for count in (1, 0):
        monkeypatch.setattr(
            sys.modules[type(made).__module__],
            "filter_mm_encoder_only_safetensors_files",
            lambda files, folder, index, prefixes, weights_mapper, count=count: sorted(files)[:count],
        )
        if count:
            assert_same(made._get_weights_iterator(source), {"t000": tensors["t000"]})
        else:
            with pytest.raises(RuntimeError, match=f"leaves no file of {folder}"):
                made._get_weights_iterator(source)


def test_a_model_in_an_object_store_is_streamed_from_there(
    vllm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = loader(vllm, storage_options={"region_name": "eu"})
    assert streamed(vllm, made, monkeypatch) == [(URL, {"region_name": "eu"}, "cpu")]
    # A reload from another place, which vLLM puts into the place of the model.
    assert streamed(vllm, made, monkeypatch, model=f"{URL}-2", model_weights="")[0][0] == f"{URL}-2"
    made.download_model(SimpleNamespace(model="/cache/llama", model_weights=URL))
    made.download_model(SimpleNamespace(model="org/llama", model_weights=""))
    assert made.downloaded == ["org/llama"]


@pytest.mark.parametrize(
    ("source", "location"),
    [
        ({}, URL),
        ({"subfolder": "vision"}, f"{URL}/vision"),
        ({"allow_patterns_overrides": ["part-*.safetensors", "*.pt"]}, f"{URL}/part-*.safetensors"),
    ],
    ids=str,
)
def test_what_a_model_asks_for_below_a_url(vllm: SimpleNamespace, source: dict[str, Any], location: str) -> None:
    from weightstream.integrations._vllm_loader import _below

    assert _below(URL, fake_vllm.DefaultModelLoader.Source(URL, None, **source)) == location
    with pytest.raises(ws.ConfigError, match="only safetensors are loaded"):
        _below(URL, fake_vllm.DefaultModelLoader.Source(URL, None, allow_patterns_overrides=["*.pt"]))


def test_tensors_that_are_put_together_are_the_default_loader_s_business(vllm: SimpleNamespace) -> None:
    made = loader(vllm)
    made.load_config.safetensors_load_strategy = "torchao"
    source = fake_vllm.DefaultModelLoader.Source("/models/quantized", None)
    assert list(made._get_weights_iterator(source)) == [("by the default loader", None)]


def test_where_the_tensors_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, device in ((False, "cpu"), (True, "cuda:3")):
        vllm = fake_vllm.install(monkeypatch, cuda=cuda)
        register()
        assert loader(vllm)._device() == device
        assert loader(vllm, device="cuda:1")._device() == "cuda:1"
        made = vllm.formats["weightstream"](fake_vllm.LoadConfig("weightstream", device="cpu"))
        assert made._device() == "cpu"


@pytest.mark.parametrize("extra", [{"concurency": 4}, "concurrency=4"], ids=str)
def test_extra_keys_that_are_unknown(vllm: SimpleNamespace, extra: Any) -> None:
    with pytest.raises(ws.ConfigError, match="model_loader_extra_config"):
        vllm.formats["weightstream"](fake_vllm.LoadConfig("weightstream", extra))


def test_a_vllm_that_checks_urls_elsewhere_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vllm = fake_vllm.install(monkeypatch)
    monkeypatch.delattr(fake_vllm.VllmConfig, "try_verify_and_update_config")
    register()
    assert "has no attribute 'try_verify_and_update_config'" in caplog.text
    assert sorted(vllm.formats) == ["runai_streamer"]
