"""accelerate's ways of loading a checkpoint, through the patch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import Put, put_into

import weightstream as ws
from weightstream.integrations import as_local_folder

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 4, "vocab_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(folder, max_shard_size="80KB")
    assert len(list(folder.glob("*.safetensors"))) == 2
    return folder


@pytest.fixture
def put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Put:
    return put_into(request.param, request, monkeypatch)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The locations that weightstream opens for accelerate."""
    from weightstream.safetensors import safe_open

    made: list[Any] = []
    init = safe_open.__init__

    def noted(self: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
        made.append(filename)
        init(self, filename, *args, **kwargs)

    monkeypatch.setattr(safe_open, "__init__", noted)
    yield made
    assert made


def empty_model() -> Any:
    with accelerate.init_empty_weights():
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))


@pytest.mark.parametrize("device_map", [{"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}], ids=str)
@pytest.mark.parametrize("put", ["read", "s3"], indirect=True)
def test_load_checkpoint_in_model(put: Put, folder: Path, opened: list[Any], device_map: Any) -> None:
    place = put(folder)
    ours = empty_model()
    with as_local_folder(place.location, storage_options=place.storage_options or None) as there:
        accelerate.load_checkpoint_in_model(ours, there, device_map=device_map)
    for name, tensor in ws.load(folder).items():
        assert torch.equal(ours.state_dict()[name], tensor)


@pytest.mark.parametrize("put", ["read", "s3"], indirect=True)
def test_load_checkpoint_and_dispatch(put: Put, folder: Path, opened: list[Any]) -> None:
    place = put(folder)
    with as_local_folder(place.location, storage_options=place.storage_options or None) as there:
        ours = accelerate.load_checkpoint_and_dispatch(empty_model(), there, device_map={"": "cpu"})
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder)
    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        assert torch.equal(ours.eval()(tokens).logits, theirs(tokens).logits)


def test_what_it_offloads_to_the_disk_is_read_again(
    folder: Path, opened: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "pread")
    device_map = {"model": "cpu", "lm_head": "disk"}
    tokens = torch.arange(12).reshape(1, 12)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder)
    with ws.patch_safetensors(), torch.no_grad():
        ours = transformers.LlamaForCausalLM.from_pretrained(
            folder, device_map=device_map, offload_folder=tmp_path / "offload"
        )
        before = len(opened)
        assert torch.equal(ours(tokens).logits, theirs(tokens).logits)
        assert len(opened) > before
