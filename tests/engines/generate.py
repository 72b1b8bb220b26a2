"""Generates tokens with vLLM; a program, because an engine changes its process for good.

The first argument is JSON: {"without": [modules that are as if not installed], "prompts": [lists of tokens], "cases":
[...]}, each case with `model`, `load_format`, `extra` (of its loader) and `reload` (paths to load weights from
afterwards, one after the other). A line of JSON for each goes to the file that is the second argument: the tokens of
the model and of each reload, or the error.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    request = json.loads(sys.argv[1])
    for module in request["without"]:
        sys.modules[module] = None  # type: ignore[assignment]
    for case in request["cases"]:
        with Path(sys.argv[2]).open("a") as results:
            results.write(json.dumps(run(case, request["prompts"])) + "\n")


def run(case: dict[str, Any], prompts: list[list[int]]) -> dict[str, Any]:
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    try:
        llm = LLM(
            model=case["model"],
            load_format=case["load_format"],
            model_loader_extra_config=case["extra"],
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=64,
            disable_log_stats=True,
        )
        tokens = [generate(llm, prompts)]
        for path in case["reload"]:
            llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
            llm.reset_prefix_cache()
            tokens.append(generate(llm, prompts))
        llm.llm_engine.engine_core.shutdown()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    else:
        return {"tokens": tokens}
    finally:
        llm = None
        gc.collect()
        cleanup_dist_env_and_memory()


def generate(llm: Any, prompts: list[list[int]]) -> list[int]:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    inputs = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    outputs = llm.generate(inputs, SamplingParams(max_tokens=12, temperature=0, detokenize=False), use_tqdm=False)
    return [token for output in outputs for token in output.outputs[0].token_ids]


if __name__ == "__main__":
    main()
