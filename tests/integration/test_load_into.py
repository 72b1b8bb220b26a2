"""Loading into modules of torch: what is written, what stays what it is, and what is refused before."""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

import weightstream as ws
from fake_gpu import FakeGpu, fake_gpu
from processes import run

pytestmark = pytest.mark.usefixtures("one_thread", "no_leaks")

WIDTH = 700  # of layers that the first read of a file does not bring as a whole


class Block(nn.Module):
    """A bit of everything that a state dict has."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.norm = nn.LayerNorm(width)
        self.rnn = nn.LSTM(width, width)
        self.head = nn.Linear(width, 20, bias=False)
        self.register_buffer("scale", torch.full((3,), 2.0))
        self.register_buffer("positions", torch.arange(width), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.norm(self.embed(tokens)))[0])


def save(module: nn.Module, path: Path, **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Saves what a module's state dict has, but for the changes."""
    tensors = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
    for key, tensor in changes.items():
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    save_file(tensors, path)
    return tensors


def on_meta(make: Any) -> Any:
    with torch.device("meta"):
        return make()


def differing(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    state = module.state_dict()
    return [key for key, tensor in tensors.items() if not torch.equal(state[key], tensor)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


class TestInPlace:
    def test_what_has_memory_is_filled(self, path: Path) -> None:
        tensors = save(Block(), path)
        module = Block()
        before = {key: (id(value), value.data_ptr()) for key, value in module.state_dict(keep_vars=True).items()}
        assert differing(module, tensors)
        assert str(ws.load_into(module, path)) == "<All keys matched successfully>"
        assert differing(module, tensors) == []
        after = {key: (id(value), value.data_ptr()) for key, value in module.state_dict(keep_vars=True).items()}
        assert after == before

    def test_the_modules_dtype_counts(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tensors = save(Block(), path)
        monkeypatch.setenv("WEIGHTSTREAM_DTYPE", "float16")
        module = Block().double()
        ws.load_into(module, path)
        assert module.head.weight.dtype == torch.float64
        assert torch.equal(module.head.weight, tensors["head.weight"].double())  # and not rounded on the way

    def test_other_memory_formats(self, path: Path) -> None:
        tensors = save(nn.Conv2d(4, 6, 3), path)
        module = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
        ws.load_into(module, path)
        assert differing(module, tensors) == []
        assert module.weight.is_contiguous(memory_format=torch.channels_last)

    def test_autograd_notices(self, path: Path) -> None:
        save(nn.Linear(3, 3), path)
        module = nn.Linear(3, 3)
        loss = module(torch.ones(2, 3, requires_grad=True)).sum()
        ws.load_into(module, path)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_an_optimizer_goes_on(self, path: Path) -> None:
        tensors = save(Block(), path)
        module = Block()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        ws.load_into(module, path)
        module(torch.arange(5)).sum().backward()
        optimizer.step()
        assert "head.weight" in differing(module, tensors)

    def test_modules_of_inference_mode(self, path: Path) -> None:
        tensors = save(nn.Linear(3, 3), path)
        with torch.inference_mode():
            module = nn.Linear(3, 3)
        ws.load_into(module, path)
        assert differing(module, tensors) == []


class TestOnMeta:
    def test_tensors_that_are_read_become_the_modules(self, path: Path) -> None:
        tensors = save(Block(), path)
        module = on_meta(Block)
        module.positions = torch.arange(8)
        ws.load_into(module, path)
        assert differing(module, tensors) == []
        assert all(isinstance(parameter, nn.Parameter) for parameter in module.parameters())
        expected = Block()
        expected.load_state_dict(tensors)
        assert torch.equal(module(torch.arange(9)), expected(torch.arange(9)))  # of the LSTM's own list, too

    def test_they_train_and_are_saved_again(self, path: Path, tmp_path: Path) -> None:
        save(Block(), path)
        module, expected = on_meta(Block), Block()
        module.positions = torch.arange(8)
        ws.load_into(module, path)
        expected.load_state_dict(ws.load(path))
        for each in (module, expected):
            optimizer = torch.optim.AdamW(each.parameters(), lr=0.1)
            each(torch.arange(9)).square().sum().backward()
            optimizer.step()
        save_model(module, str(tmp_path / "trained.safetensors"))
        assert differing(expected, ws.load(tmp_path / "trained.safetensors")) == []

    def test_the_files_dtype_counts_or_the_one_asked_for(self, path: Path) -> None:
        tensors = save(Block().bfloat16(), path)
        module = on_meta(Block)
        ws.load_into(module, path)
        assert module.head.weight.dtype == torch.bfloat16
        module = on_meta(Block)
        ws.load_into(module, path, dtype="float32")
        assert module.head.weight.dtype == torch.float32
        assert torch.equal(module.head.weight, tensors["head.weight"].float())

    def test_class_attributes_and_gradients_are_kept(self, path: Path) -> None:
        class Weight(nn.Parameter):
            def __new__(cls, data: torch.Tensor, loader: str = "") -> Weight:
                made = super().__new__(cls, data, requires_grad=False)
                made.loader = loader
                return made

        def make() -> nn.Module:
            module = nn.Linear(3, 3)
            module.weight = Weight(torch.empty(3, 3), "row")
            return module

        save(nn.Linear(3, 3), path)
        module = on_meta(make)
        ws.load_into(module, path)
        assert type(module.weight) is Weight
        assert (module.weight.loader, module.weight.requires_grad) == ("row", False)
        assert module.bias.requires_grad

    def test_integers_where_numbers_were_do_not_ask_for_gradients(self, path: Path) -> None:
        save_file({"weight": torch.ones(3, 3, dtype=torch.int8), "bias": torch.ones(3)}, path)
        module = on_meta(lambda: nn.Linear(3, 3))
        ws.load_into(module, path)
        assert (module.weight.dtype, module.weight.requires_grad) == (torch.int8, False)

    def test_what_is_not_in_the_checkpoint_is_said(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        save(Block(), path)
        with caplog.at_level(logging.INFO, "weightstream"):
            ws.load_into(on_meta(Block), path)
        loaded, left = caplog.messages
        assert "GB into Block" in loaded
        assert "still on the meta device" in left
        assert left.endswith(": positions")


class TestTied:
    def make(self) -> Block:
        module = Block()
        module.head.weight = module.embed.weight
        return module

    @pytest.mark.parametrize("meta", [False, True])
    @pytest.mark.parametrize("left_out", ["head.weight", "embed.weight", None])
    def test_one_is_enough(self, path: Path, meta: bool, left_out: str | None) -> None:
        tensors = save(self.make(), path, **({} if left_out is None else {left_out: None}))
        module = on_meta(self.make) if meta else self.make()
        assert ws.load_into(module, path) == ([], [])
        assert module.head.weight is module.embed.weight
        assert differing(module, tensors) == []

    def test_of_two_that_differ_the_last_counts_and_only_it_is_read(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        save(self.make(), path, **{"head.weight": torch.full((20, 8), 5.0), "embed.weight": torch.full((20, 8), 4.0)})
        module, expected = self.make(), self.make()
        ws.load_into(module, path)
        expected.load_state_dict(ws.load(path))
        assert torch.equal(module.head.weight, expected.head.weight)
        assert module.head.weight[0, 0] == 5

    def test_a_submodule_under_two_names(self, path: Path) -> None:
        def make() -> nn.Module:
            shared = nn.Linear(3, 3)
            return nn.Sequential(OrderedDict(first=shared, second=shared))

        tensors = save(make(), path, **{"second.weight": None, "second.bias": None})
        module = on_meta(make)
        ws.load_into(module, path)
        assert module.first is module.second
        assert differing(module, tensors) == []


class TestNames:
    def test_all_differences_are_said_before_anything_is_written(self, path: Path) -> None:
        save(Block(), path, **{"norm.bias": None, "extra": torch.ones(1), "scale": torch.ones(4)})
        module = Block()
        before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        with pytest.raises(ws.MismatchError) as caught:
            ws.load_into(module, path)
        assert isinstance(caught.value, RuntimeError)
        for part in (
            "not those of Block",
            "lacks 1: 'norm.bias'",
            "the module lacks 1 of the checkpoint's: 'extra'",
            "'scale': the checkpoint has (4,), the module (3,)",
        ):
            assert part in str(caught.value)
        assert differing(module, before) == []

    def test_not_strict_takes_what_there_is(self, path: Path) -> None:
        tensors = save(Block(), path, **{"norm.bias": None, "extra": torch.ones(1)})
        module = Block()
        result = ws.load_into(module, path, strict=False)
        assert (result.missing_keys, result.unexpected_keys) == (["norm.bias"], ["extra"])
        del tensors["extra"]
        assert differing(module, tensors) == []

    def test_shapes_that_differ_are_refused_either_way(self, path: Path) -> None:
        save(Block(), path, scale=torch.ones(4))
        module = Block()
        with pytest.raises(ws.MismatchError, match="shapes differ of 'scale'"):
            ws.load_into(module, path, strict=False)

    def test_as_torch_says(self, path: Path) -> None:
        tensors = save(Block(), path, **{"norm.bias": None, "positions": torch.arange(8)})
        ours, theirs = ws.load_into(Block(), path, strict=False), Block().load_state_dict(tensors, strict=False)
        assert type(ours) is type(theirs)
        assert ours == theirs == (["norm.bias"], ["positions"])

    def test_rename_maps_and_leaves_out(self, path: Path) -> None:
        tensors = save(nn.ModuleDict({"module": Block(), "other": nn.Linear(1, 1)}), path)

        def rename(name: str) -> str | None:
            return name.removeprefix("module.") if name.startswith("module.") else None

        module = Block()
        assert ws.load_into(module, path, rename=rename) == ([], [])
        assert differing(module, {rename(name): tensor for name, tensor in tensors.items() if rename(name)}) == []

    def test_rename_to_the_same_name(self, path: Path) -> None:
        save(Block(), path)
        with pytest.raises(ws.ConfigError, match="makes 'x' of two tensors"):
            ws.load_into(Block(), path, rename=lambda name: "x")

    def test_what_cannot_be_loaded_into(self, path: Path) -> None:
        save(Block(), path)
        with pytest.raises(ws.ConfigError, match=r"into a torch\.nn\.Module, not a dict"):
            ws.load_into({}, path)  # type: ignore[arg-type]

    def test_tensors_that_are_made_of_others(self, path: Path) -> None:
        from torch.testing._internal.two_tensor import TwoTensor

        save(nn.Linear(3, 3), path)
        module = nn.Linear(3, 3)
        module.weight = nn.Parameter(TwoTensor(torch.ones(3, 3), torch.ones(3, 3)))
        with pytest.raises(ws.ConfigError, match="'weight' is a TwoTensor"):
            ws.load_into(module, path)


class TestSubmodulesThatLoadThemselves:
    def make(self) -> nn.Module:
        return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 4))

    @pytest.mark.parametrize("meta", [False, True])
    def test_batch_norm_of_an_old_checkpoint(self, path: Path, meta: bool) -> None:
        tensors = save(self.make(), path, **{"1.num_batches_tracked": None})
        module = on_meta(self.make) if meta else self.make()
        assert ws.load_into(module, path) == ([], [])
        assert differing(module, tensors) == []
        assert module[1].num_batches_tracked == 0

    def test_hooks_rename(self, path: Path) -> None:
        def old_name(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
            state[prefix + "weight"] = state.pop(prefix + "gamma")

        def make() -> nn.Module:
            module = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
            module[0].register_load_state_dict_pre_hook(old_name)
            return module

        save(make(), path, **{"0.weight": None, "0.gamma": torch.full((4,), 3.0)})
        module = make()
        assert ws.load_into(module, path) == ([], [])
        assert module[0].weight[0] == 3

    def test_what_they_miss_is_said(self, path: Path) -> None:
        save(self.make(), path, **{"1.bias": None, "1.more": torch.ones(1)})
        assert ws.load_into(self.make(), path, strict=False) == (["1.bias"], ["1.more"])
        with pytest.raises(ws.MismatchError, match=r"lacks 1: '1\.bias'"):
            ws.load_into(self.make(), path)

    def test_without_any_of_theirs(self, path: Path) -> None:
        save_file({key: tensor for key, tensor in self.make().state_dict().items() if not key.startswith("1.")}, path)
        missing = ws.load_into(self.make(), path, strict=False).missing_keys
        assert missing == ["1.weight", "1.bias", "1.running_mean", "1.running_var"]

    def test_shapes_that_differ(self, path: Path) -> None:
        save(self.make(), path, **{"1.bias": torch.ones(5)})
        with pytest.raises(ws.MismatchError, match=r"submodule 1 cannot load: (.|\n)*size mismatch for bias"):
            ws.load_into(self.make(), path)

    def test_a_module_that_loads_as_a_whole(self, path: Path) -> None:
        class Whole(nn.Linear):
            def load_state_dict(self, state: Any, *args: Any, **kwargs: Any) -> Any:
                self.seen = sorted(state)
                return super().load_state_dict(state, *args, **kwargs)

        tensors = save(nn.Linear(3, 3), path)
        module = Whole(3, 3)
        ws.load_into(module, path)
        assert module.seen == ["bias", "weight"]
        assert differing(module, tensors) == []

    def test_lazy_modules(self, path: Path) -> None:
        tensors = save(nn.Linear(3, 5), path)
        module = nn.LazyLinear(5)
        ws.load_into(module, path)
        assert differing(module, tensors) == []

    def test_extra_state(self, path: Path) -> None:
        class Extra(nn.Linear):
            def get_extra_state(self) -> torch.Tensor:
                return torch.tensor([7])

            def set_extra_state(self, state: torch.Tensor) -> None:
                self.extra = state

        save(Extra(3, 3), path)
        module = Extra(3, 3)
        ws.load_into(module, path)
        assert module.extra.tolist() == [7]
        save(nn.Linear(3, 3), path)
        assert ws.load_into(module, path, strict=False).missing_keys == ["_extra_state"]


class TestLocations:
    def test_shards(self, tmp_path: Path) -> None:
        block = Block()
        keys = sorted(block.state_dict())
        for shard, part in enumerate((keys[::2], keys[1::2])):
            save_file({key: block.state_dict()[key] for key in part}, tmp_path / f"model-{shard}-of-2.safetensors")
        module = on_meta(Block)
        ws.load_into(module, tmp_path)
        assert differing(module, block.state_dict()) == []

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ws.NotFoundError):
            ws.load_into(Block(), tmp_path / "missing.safetensors")

    def test_settings_are_checked(self, path: Path) -> None:
        save(Block(), path)
        with pytest.raises(ws.ConfigError, match="memory_limit='much'"):
            ws.load_into(Block(), path, memory_limit="much")


class TestDevices:
    """On a GPU that is none: what is under test is which bytes go where, by which way."""

    @pytest.fixture
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
        with fake_gpu(monkeypatch) as made:
            yield made
            gc.collect()

    def test_straight_to_the_modules_memory(self, path: Path, gpu: FakeGpu) -> None:
        tensors = save(nn.Linear(WIDTH, WIDTH), path)
        module = nn.Linear(WIDTH, WIDTH, device="meta")
        module.weight = nn.Parameter(gpu.empty((WIDTH, WIDTH), torch.float32))
        module.bias = nn.Parameter(gpu.empty((WIDTH,), torch.float32))
        at = module.weight.data_ptr()
        gpu.allocated.clear()
        ws.load_into(module, path)
        assert differing(module, tensors) == []
        assert module.weight.data_ptr() == at
        assert gpu.allocated == []
        assert gpu.counts().copied_bytes >= WIDTH * WIDTH * 4

    def test_another_dtype_is_cast_there(self, path: Path, gpu: FakeGpu) -> None:
        tensors = save(nn.Linear(WIDTH, WIDTH), path)
        module = nn.Linear(WIDTH, WIDTH, device="meta", dtype=torch.float64)
        module.weight = nn.Parameter(gpu.empty((WIDTH, WIDTH), torch.float64))
        module.bias = nn.Parameter(gpu.empty((WIDTH,), torch.float64))
        ws.load_into(module, path)
        assert module.weight.dtype == torch.float64
        assert torch.equal(module.weight, tensors["weight"].double())

    def test_what_is_on_meta_becomes_device_memory(self, path: Path, gpu: FakeGpu) -> None:
        tensors = save(nn.Linear(WIDTH, WIDTH), path)
        module = nn.Linear(WIDTH, WIDTH, device="meta")
        ws.load_into(module, path, device="cpu")
        assert differing(module, tensors) == []
        assert sum(gpu.allocated) >= WIDTH * WIDTH * 4
        del module


def test_a_device_that_is_chosen_takes_all(path: Path) -> None:
    # "meta" is the one other device that every machine has, and what has memory cannot be read to it.
    save(Block(), path)
    with pytest.raises(ws.WeightstreamError):
        ws.load_into(Block(), path, device="cuda:77")


def test_the_package_is_imported_without_it(path: Path) -> None:
    program = """
        import weightstream as ws
        assert "weightstream._load_into" not in sys.modules and "torch" not in sys.modules
        assert "load_into" in ws.__all__
        ws.load_into
        assert "torch" not in sys.modules
        try:
            ws.nothing_such
        except AttributeError as error:
            print(error)
    """
    assert run(program) == "module 'weightstream' has no attribute 'nothing_such'\n"


def test_memory_is_the_modules_and_the_limit(path: Path) -> None:
    layers, width, limit = 32, 1024, 32 << 20  # 32 * 4 MiB
    save_file({f"{i}.weight": torch.full((width, width), float(i)) for i in range(layers)}, path)
    program = """
        import torch
        from torch import nn
        import weightstream as ws
        path, layers, width, limit = sys.argv[1], *map(int, sys.argv[2:])

        def memory(field):
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) << 10 for line in status if line.startswith(field))

        def most(load):
            "How much it takes at most."
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # VmHWM begins anew
            before = memory("VmRSS")
            loaded = load()
            assert all(layer.weight[-1, -1].item() == i for i, layer in enumerate(loaded))
            return memory("VmHWM") - before

        def make(device):
            return nn.Sequential(*[nn.Linear(width, width, bias=False, device=device) for _ in range(layers)])

        def loaded_into(device):
            module = make(device)
            ws.load_into(module, path, memory_limit=limit)
            return module

        def with_a_second_copy():
            module = make("cpu")
            module.load_state_dict(ws.load(path))
            return module

        most(with_a_second_copy)  # what torch itself gets once
        print(most(lambda: loaded_into("meta")), most(lambda: loaded_into("cpu")), most(with_a_second_copy))
    """
    nbytes = layers * width * width * 4
    # With a fixed threshold malloc gives memory back that is freed, so that each measure begins at the same level.
    printed = run(program, path, layers, width, limit, MALLOC_MMAP_THRESHOLD_="65536")
    on_meta, in_place, copied = (int(taken) - nbytes for taken in printed.split())
    slack = 16 << 20
    assert on_meta < limit + slack
    assert in_place < limit + slack
    assert copied > limit + slack  # the measure tells
