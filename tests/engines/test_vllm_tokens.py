"""vLLM generates the same tokens whoever reads the weights: its own loader, weightstream, or the Run:ai names."""

from __future__ import annotations

from pathlib import Path

from vllm_runs import LOADED, Models, case, generate, reaching

from servers.s3 import S3Server

RUNAI = "runai_model_streamer"


def test_the_load_format_weightstream(tmp_path: Path, models: Models, s3: S3Server) -> None:
    run = generate(
        tmp_path,
        case(models.one, "safetensors", reload=[models.other]),
        case(models.one, "weightstream", {"concurrency": 2, "memory_limit": "64MiB", "device": "cpu"}),
        case(models.twice, "weightstream"),
        case(models.one, "weightstream", reload=[models.other, models.sharded, f"{models.in_s3}/other"]),
        case(f"{models.in_s3}/one", "weightstream"),
        case(f"{models.in_s3}/twice", "weightstream", reload=[models.other]),
        case(models.one, "weightstream", {"conccurency": 2}),
        # Nothing but weightstream is there: the configuration of a model in S3 comes by it as well.
        without=[RUNAI],
        **reaching(s3),
    )
    ours, other = run.results[0]["tokens"]
    assert len(set(ours)) > 3
    assert ours != other
    streamed = [result.get("tokens") for result in run.results[1:6]]
    assert streamed == [[ours], [ours], [ours, other, ours, other], [ours], [ours, other]]
    assert "conccurency" in run.results[6]["error"]
    assert "it knows backend, concurrency, device" in run.results[6]["error"]
    assert run.log.count(LOADED) == 9
    assert "bound by" in run.log


def test_the_load_format_runai_streamer_by_the_plug_in(tmp_path: Path, models: Models, s3: S3Server) -> None:
    run = generate(
        tmp_path,
        case(models.one, "safetensors"),
        case(models.one, "runai_streamer", {"distributed": False, "concurrency": 4, "memory_limit": -1}),
        case(f"{models.in_s3}/sharded", "runai_streamer"),
        case(f"{models.in_s3}/one", "auto", reload=[models.sharded]),
        without=[RUNAI],
        WEIGHTSTREAM_VLLM_RUNAI="1",
        **reaching(s3),
    )
    ours = run.results[0]["tokens"][0]
    assert [result.get("tokens") for result in run.results[1:]] == [[ours], [ours], [ours, ours]]
    assert run.log.count(LOADED) == 4


def test_the_load_format_runai_streamer_by_the_shim(tmp_path: Path, models: Models, s3: S3Server) -> None:
    run = generate(
        tmp_path,
        case(models.one, "safetensors"),
        case(models.one, "runai_streamer"),
        case(models.sharded, "runai_streamer", {"concurrency": 4}),
        case(f"{models.in_s3}/one", "runai_streamer"),
        case(f"{models.in_s3}/sharded", "auto"),
        VLLM_PLUGINS="",  # vLLM as it is, which knows nothing of weightstream
        **reaching(s3),
    )
    ours = run.results[0]["tokens"][0]
    assert [result.get("tokens") for result in run.results[1:]] == [[ours]] * 4
    assert LOADED not in run.log
