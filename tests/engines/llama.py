"""A Llama that is small enough for every test, with random weights, as a folder that engines serve."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

_VOCABULARY = 256
_HIDDEN = 64
_HEAD = 32
_INTERMEDIATE = 128
_LAYERS = 2

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": _VOCABULARY,
    "hidden_size": _HIDDEN,
    "intermediate_size": _INTERMEDIATE,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": _HEAD,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def write_llama(folder: Path, seed: int, shards: int = 1, *, twice: bool = False) -> Path:
    """Writes a model: its weights depend on the seed, and in how many files they lie does not change them.

    `twice`: a file of another format lies beside them, as in some repositories; the index leaves it out.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    tensors = _weights(seed)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if twice:
        save_file({"tok_embeddings.weight": torch.zeros(1)}, folder / "consolidated.safetensors")
    return folder


def _weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        # Large enough that the tokens that come out are not all the same.
        return (0.3 * torch.randn(*shape, generator=generator)).to(torch.bfloat16)

    def ones() -> torch.Tensor:
        return torch.ones(_HIDDEN, dtype=torch.bfloat16)

    tensors = {"model.embed_tokens.weight": random(_VOCABULARY, _HIDDEN)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": ones(),
            f"{prefix}.self_attn.q_proj.weight": random(2 * _HEAD, _HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": random(_HEAD, _HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": random(_HEAD, _HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": random(_HIDDEN, 2 * _HEAD),
            f"{prefix}.post_attention_layernorm.weight": ones(),
            f"{prefix}.mlp.gate_proj.weight": random(_INTERMEDIATE, _HIDDEN),
            f"{prefix}.mlp.up_proj.weight": random(_INTERMEDIATE, _HIDDEN),
            f"{prefix}.mlp.down_proj.weight": random(_HIDDEN, _INTERMEDIATE),
        }
    return tensors | {"model.norm.weight": ones(), "lm_head.weight": random(_VOCABULARY, _HIDDEN)}
