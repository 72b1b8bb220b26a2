"""diffusers from any location: pipelines, one of their models, and LoRA weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import Put, assert_same_state, put_into
from safetensors.torch import save_file

import weightstream as ws
from weightstream.integrations import as_local_folder
from weightstream.integrations.diffusers import from_pretrained

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    diffusers.utils.logging.disable_progress_bar()


@pytest.fixture
def put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Put:
    return put_into(request.param, request, monkeypatch)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of a small UNet and a scheduler; of the UNet there is a variant in shards, too."""
    torch.manual_seed(1)
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    unet = diffusers.UNet2DModel(sample_size=8, layers_per_block=1, block_out_channels=(32, 64), **blocks)
    folder = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=4)).save_pretrained(folder)
    unet.half().save_pretrained(folder / "unet", variant="fp16", max_shard_size="600KB")
    assert len(list(folder.rglob("*.safetensors"))) > 3
    return folder


@pytest.mark.parametrize("put", ["mapped", "read", "s3", "http"], indirect=True)
def test_a_pipeline(put: Put, pipeline: Path) -> None:
    place = put(pipeline)
    ours = from_pretrained(place.location, storage_options=place.storage_options or None)
    theirs = diffusers.DDPMPipeline.from_pretrained(pipeline)
    assert type(ours) is type(theirs)
    assert_same_state(ours.unet, theirs.unet)
    assert ours.scheduler.config == theirs.scheduler.config
    images = [
        pipe(num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="np").images
        for pipe in (ours, theirs)
    ]
    assert abs(images[0] - images[1]).max() < 1e-5


@pytest.mark.parametrize("put", ["read", "s3", "http"], indirect=True)
def test_a_model_of_it_in_another_variant(put: Put, pipeline: Path) -> None:
    place = put(pipeline)
    settings = {"subfolder": "unet", "variant": "fp16", "torch_dtype": torch.float16}
    ours = from_pretrained(
        place.location,
        model_class=diffusers.UNet2DModel,
        storage_options=place.storage_options or None,
        disable_mmap="://" in place.location,  # of what is not mapped anyway
        **settings,
    )
    assert_same_state(ours, diffusers.UNet2DModel.from_pretrained(pipeline, **settings))
    assert ours.dtype == torch.float16


def test_a_file_url_is_as_its_folder(tmp_path: Path) -> None:
    class Given:
        @staticmethod
        def from_pretrained(*args: Any, **kwargs: Any) -> Any:
            return args, kwargs

    given = from_pretrained(f"file://{tmp_path}", model_class=Given, disable_mmap=True)
    assert given == ((str(tmp_path),), {"disable_mmap": True})


@pytest.mark.parametrize("put", ["s3"], indirect=True)
def test_it_is_saved_again(put: Put, pipeline: Path, tmp_path: Path) -> None:
    place = put(pipeline)
    from_pretrained(place.location, storage_options=place.storage_options).save_pretrained(tmp_path)
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).read_bytes() == (pipeline / name).read_bytes()


@pytest.mark.parametrize("put", ["s3"], indirect=True)
def test_what_is_wrong_is_the_cause(put: Put, pipeline: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((pipeline / "unet/config.json").read_bytes())
    (broken / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing of the kind")
    place = put(broken)
    with (
        as_local_folder(place.location, storage_options=place.storage_options) as folder,
        pytest.raises(Exception, match=r"diffusion_pytorch_model") as caught,
    ):
        diffusers.UNet2DModel.from_pretrained(folder)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, ws.FormatError):
        error = error.__cause__ or error.__context__
    assert "s3://models/pretrained/broken/" in str(error)


def test_lora_weights_as_a_state_dict(tmp_path: Path) -> None:
    # The recipe of the guide: diffusers takes a dictionary where it takes a file.
    tensors = {
        f"transformer.transformer_blocks.0.attn.to_q.lora_{side}.weight": torch.randn(shape)
        for side, shape in (("A", (2, 16)), ("B", (16, 2)))
    }
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    state = diffusers.loaders.FluxLoraLoaderMixin.lora_state_dict(ws.load(tmp_path))
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
