"""LoRA adapters of peft from any location, onto a model that is there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import Put, assert_same_state, files_of, put_into, train

import weightstream as ws
from weightstream.integrations.peft import from_pretrained, load_adapter

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

# The warning is of what peft itself asks of transformers.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

TOKENS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def base() -> Any:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, **sizes)).eval()


@pytest.fixture(scope="module")
def adapters(base: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters, of other weights."""
    folders = {}
    for seed, name in enumerate(("sql", "chat")):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        folders[name] = tmp_path_factory.mktemp(name)
        peft.get_peft_model(copy.deepcopy(base), config).save_pretrained(folders[name])
    return folders


@pytest.fixture
def put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Put:
    return put_into(request.param, request, monkeypatch)


@pytest.mark.parametrize("put", ["mapped", "read", "s3", "http"], indirect=True)
def test_adapters(put: Put, base: Any, adapters: dict[str, Path], tmp_path: Path) -> None:
    places = {name: put(folder) for name, folder in adapters.items()}
    options = places["sql"].storage_options or None
    ours = from_pretrained(copy.deepcopy(base), places["sql"].location, storage_options=options, is_trainable=True)
    load_adapter(ours, places["chat"].location, "chat", storage_options=options)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), adapters["sql"], is_trainable=True)
    theirs.load_adapter(adapters["chat"], "chat")
    outputs = []
    for adapter in ("default", "chat"):
        ours.set_adapter(adapter)
        theirs.set_adapter(adapter)
        assert_same_state(ours, theirs)
        with torch.no_grad():
            outputs.append(ours(TOKENS).logits)
            assert torch.equal(outputs[-1], theirs(TOKENS).logits)
    assert not torch.equal(*outputs)
    for model, name in ((ours, "ours"), (theirs, "theirs")):
        model.set_adapter("default")
        train(model, input_ids=TOKENS, labels=TOKENS)
        model.save_pretrained(tmp_path / name, selected_adapters=["default"])
    weights = "adapter_model.safetensors"
    saved = files_of(tmp_path / "ours")[weights]
    assert saved == files_of(tmp_path / "theirs")[weights]
    assert saved != (adapters["sql"] / weights).read_bytes()


def test_its_tensors_as_a_state_dict(base: Any, adapters: dict[str, Path]) -> None:
    # The recipe of the guide, for a model that has the adapter's layers already.
    model = peft.get_peft_model(copy.deepcopy(base), peft.PeftConfig.from_pretrained(adapters["sql"]))
    peft.set_peft_model_state_dict(model, ws.load(adapters["sql"]))
    assert_same_state(model, peft.PeftModel.from_pretrained(copy.deepcopy(base), adapters["sql"]))


def test_straight_into_the_layers(base: Any, adapters: dict[str, Path]) -> None:
    # The recipe of the guide that has no dictionary between: peft leaves the adapter's name out of the file.
    model = peft.get_peft_model(copy.deepcopy(base), peft.PeftConfig.from_pretrained(adapters["sql"]))
    result = ws.load_into(
        model,
        adapters["sql"],
        rename=lambda name: name.removesuffix(".weight") + ".default.weight",
        strict=False,
    )
    assert result.unexpected_keys == []
    assert_same_state(model, peft.PeftModel.from_pretrained(copy.deepcopy(base), adapters["sql"]))
