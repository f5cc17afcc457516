"""The transformed filter that layers keep in eval mode: never stale, never saved, and used only where it may be."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from cases import BACKENDS
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils._python_dispatch import TorchDispatchMode

import gconv
import gconv.nn
from gconv import backends, build
from gconv.backends.filter_cache import FilterCache

C4 = gconv.CyclicGroup(4)
PACKING = [name for name in BACKENDS if backends.BACKENDS[name] in backends.PACKING]
LAYERS = (gconv.nn.LiftingConv2d, gconv.nn.GroupConv2d)
Layer = gconv.nn.LiftingConv2d | gconv.nn.GroupConv2d


def layer(kind: type[Layer] = gconv.nn.GroupConv2d, backend: str | None = None) -> Layer:
    return kind(3, 5, 3, group=C4, padding=1, backend=backend or PACKING[-1]).eval()


def image(module: Layer) -> Tensor:
    return torch.randn(2, 3, *(() if module.lifting else (4,)), 6, 7)


def truth(module: Layer, x: Tensor) -> Tensor:
    """What the op makes of the layer's parameters as they are now."""
    op = gconv.lifting_conv2d if module.lifting else gconv.group_conv2d
    return op(x, module.weight, module.bias, group=C4, padding=1, backend=module.backend).detach()


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """The backends that packed a filter from now on, once per time. dense's own convolution packs its bank, too."""
    found: list[ModuleType] = []
    real = FilterCache.packed

    def packed(self: FilterCache, backend: ModuleType, weight: Tensor, group: gconv.PlanarGroup) -> object:
        before = self._entries.get(backend)
        result = real(self, backend, weight, group)
        if self._entries[backend] is not before:
            found.append(backend)
        return result

    monkeypatch.setattr(FilterCache, "packed", packed)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", PACKING)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_filter_is_packed_once_and_gives_the_same_bits(
    kind: type[Layer], backend: str, dtype: torch.dtype, packs: list[ModuleType]
) -> None:
    module = layer(kind, backend).to(dtype)
    for _ in range(3):
        x = image(module).to(dtype)
        with torch.no_grad():
            out = module(x)
        assert torch.equal(out, truth(module, x))
        assert out.stride() == truth(module, x).stride()
        with torch.inference_mode():
            assert torch.equal(module(x), out)
    assert packs == [backends.BACKENDS[backend]]


def through_data(module: Layer) -> None:
    version = module.weight._version
    module.weight.data.mul_(2)
    assert module.weight._version == version  # nothing but the values tells


def through_a_view(module: Layer) -> None:
    module.weight.detach()[0, 0].zero_()


def through_numpy(module: Layer) -> None:
    module.weight.detach().numpy()[0] += 1


def by_an_optimizer(module: Layer) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(image(module)).pow(2).sum().backward()
    optimizer.step()


def moved_state(module: Layer) -> dict[str, Tensor]:
    return {key: value + 1 if value.is_floating_point() else value for key, value in module.state_dict().items()}


def by_loading(module: Layer) -> None:
    module.load_state_dict(moved_state(module))


def by_assigning(module: Layer) -> None:
    module.load_state_dict(moved_state(module), assign=True)


def by_a_new_parameter(module: Layer) -> None:
    module.weight = nn.Parameter(torch.randn_like(module.weight))


def by_moving_memory(module: Layer) -> None:
    module.weight.data = module.weight.data.flip(0).contiguous().flip(0) + 1


def by_one_bit(module: Layer) -> None:
    flat = module.weight.detach().view(torch.int32).flatten()
    flat[-1] ^= 1


def by_reset(module: Layer) -> None:
    module.reset_parameters()


CHANGES = (
    through_data,
    through_a_view,
    through_numpy,
    by_an_optimizer,
    by_loading,
    by_assigning,
    by_a_new_parameter,
    by_moving_memory,
    by_one_bit,
    by_reset,
)


@pytest.mark.parametrize("backend", PACKING)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_weight_is_noticed(
    change: Callable[[Layer], None], kind: type[Layer], backend: str, packs: list[ModuleType]
) -> None:
    module = layer(kind, backend)
    x = image(module)
    with torch.no_grad():
        before = module(x)
    change(module)
    with torch.no_grad():
        after = module(x)
        module(x)
    assert torch.equal(after, truth(module, x))
    assert not torch.equal(after, before)
    assert len(packs) == 2


def test_a_nan_is_a_value(packs: list[ModuleType]) -> None:
    module = layer()
    x = image(module)
    with torch.no_grad():
        module.weight[0].fill_(torch.nan)
        for _ in range(3):
            assert module(x)[:, 0].isnan().all()
    assert len(packs) == 1


def test_the_bias_is_read_every_time() -> None:
    module = layer()
    x = image(module)
    with torch.no_grad():
        module(x)
        module.bias.data.add_(1)
        assert torch.equal(module(x), truth(module, x))
        module.bias = None
        assert torch.equal(module(x), truth(module, x))


def test_dtypes_do_not_mix(packs: list[ModuleType]) -> None:
    module = layer()
    with torch.no_grad():
        module.weight.zero_()  # the same bytes in every dtype
        for dtype in (torch.float32, torch.float64, torch.float32):
            x = image(module).to(dtype)
            out = module.to(dtype)(x)
            assert out.dtype == dtype
            assert torch.equal(out, truth(module, x))
    assert len(packs) == 3


def test_a_weight_in_any_layout_is_packed_once(packs: list[ModuleType]) -> None:
    module = layer()
    module.weight = nn.Parameter(torch.randn(3, 5, 4, 3, 3).transpose(0, 1))
    x = image(module)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(module(x), truth(module, x))
    assert len(packs) == 1


def test_another_group_of_the_same_order_is_another_filter() -> None:
    module = layer()
    x = image(module)
    with torch.no_grad():
        module(x)
        module.group = gconv.DihedralGroup(2)
        expected = gconv.group_conv2d(x, module.weight, module.bias, group=module.group, padding=1, backend="reference")
        assert torch.allclose(module(x), expected, atol=1e-5)


def test_parametrized_weights_are_cached_by_value(packs: list[ModuleType]) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    module = layer()
    parametrize.register_parametrization(module, "weight", Doubled())
    x = image(module)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(module(x), truth(module, x))
        assert len(packs) == 1
        module.parametrizations.weight.original.data.add_(1)
        assert torch.equal(module(x), truth(module, x))
    assert len(packs) == 2


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, gconv.nn.spectral_norm])
def test_spectral_norms_are_followed(norm: Callable[[Layer], Layer]) -> None:
    module = norm(layer().train())
    x = image(module)
    for _ in range(3):
        module.train()(x).sum().backward()  # one more power iteration
        module.eval()
        with torch.no_grad():
            assert torch.equal(module(x), truth(module, x))


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native module was not built: python -m gconv says why")
def test_another_instruction_set_packs_again(packs: list[ModuleType]) -> None:
    native = build.native()
    assert native is not None
    best, module = native.instruction_set(), layer(backend="cpu")
    x = image(module)
    try:
        with torch.no_grad():
            for name in native.instruction_sets():
                native.use_instruction_set(name)
                assert torch.equal(module(x), truth(module, x))
    finally:
        native.use_instruction_set(best)
    assert len(packs) == len(native.instruction_sets())


def test_nothing_is_saved_copied_or_kept_in_training() -> None:
    module = layer()
    x = image(module)
    keys = set(module.state_dict())
    with torch.no_grad():
        module(x)
    assert len(module._filters) == 1
    assert set(module.state_dict()) == keys == {"weight", "bias", "_extra_state"}
    assert not list(module.buffers())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert len(other._filters) == 0
        with torch.no_grad():
            assert torch.equal(other(x), module(x))
    for saved in (module, module.train()):
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        assert buffer.tell() < 12_000  # 2.3 kB of parameters and the pickled class
    assert len(module._filters) == 0
    with torch.no_grad():
        module(x)
    assert len(module._filters) == 0


def test_train_and_eval_of_a_whole_network_free_and_fill() -> None:
    network = nn.Sequential(layer(gconv.nn.LiftingConv2d), layer(gconv.nn.GroupConv2d)).eval()
    network[1] = gconv.nn.GroupConv2d(5, 5, 3, group=C4, backend=PACKING[-1]).eval()
    with torch.no_grad():
        network(torch.randn(1, 3, 6, 6))
    assert [len(module._filters) for module in network] == [1, 1]
    kept = weakref.ref(network[0]._filters._entries[backends.BACKENDS[PACKING[-1]]].weight)
    network.train()
    gc.collect()
    assert kept() is None


def test_memory_does_not_grow() -> None:
    module = layer()
    x = image(module)
    with torch.no_grad():
        module(x)
        first = weakref.ref(module._filters._entries[backends.BACKENDS[PACKING[-1]]].weight)
        for _ in range(5):
            module.weight.add_(1)
            module(x)
            assert len(module._filters) == 1
    assert first() is None


def test_no_cache_where_a_gradient_is_recorded(packs: list[ModuleType]) -> None:
    module = layer()
    x = image(module)
    out = module(x)
    assert out.requires_grad
    module.requires_grad_(False)
    assert module(x.clone().requires_grad_()).requires_grad
    assert packs == []
    assert not module(x).requires_grad
    assert len(packs) == 1


def test_the_reference_stays_the_definition(packs: list[ModuleType]) -> None:
    module = layer(backend="reference")
    x = image(module)
    with torch.no_grad():
        assert torch.equal(module(x), truth(module, x))
    assert packs == []


class Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_whoever_watches_or_transforms_the_op_sees_it(packs: list[ModuleType]) -> None:
    module = layer().requires_grad_(False)
    x = image(module)
    expected = truth(module, x)
    with Watch() as watch:
        module(x)
    assert "gconv.group_conv2d.default" in watch.seen
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        module(x)
    assert "gconv::group_conv2d" in {event.key for event in profile.key_averages()}
    assert type(module(x.as_subclass(Named))) is Named
    assert torch.equal(module(torch._neg_view(-x)), expected)
    traced = torch.fx.experimental.proxy_tensor.make_fx(module)(x)
    assert any("group_conv2d" in str(node.target) for node in traced.graph.nodes)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        module(forward_ad.make_dual(x, x))
    batched = torch.stack([x, 2 * x])
    assert torch.allclose(torch.func.vmap(module)(batched), torch.stack([expected, module(2 * x)]), atol=1e-6)
    assert len(packs) == 1  # by the plain call for the second half of the batch


class Named(Tensor):
    pass


def test_meta_tensors_and_graphs_are_left_alone(packs: list[ModuleType]) -> None:
    module = layer().requires_grad_(False)
    x = image(module)
    assert copy.deepcopy(module).to("meta")(x.to("meta")).shape == (2, 5, 4, 6, 7)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    exported = torch.export.export(module, (x,)).module()
    assert packs == []
    for run in (compiled, exported):
        assert torch.equal(run(x), truth(module, x))
    module.weight.data.mul_(2)
    assert torch.equal(compiled(x), truth(module, x))


def test_autocast_is_followed() -> None:
    module = layer()
    x = image(module)
    with torch.no_grad():
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(module(x), truth(module, x))
            assert torch.equal(module(x), truth(module, x))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_may_be_written_to(kind: type[Layer], backend: str, recorded: bool) -> None:
    """They are no views made where nothing was recorded, which autograd protects."""
    module = layer(kind, backend)
    for x in (image(module), image(module)[..., :1, :1]):
        with torch.set_grad_enabled(recorded):
            out = module(x)
            relu = module(x).relu_()
        assert not out._is_view()
        assert out.requires_grad == relu.requires_grad == recorded
        assert torch.equal(relu, out.relu())
        out.mul_(torch.ones(1, requires_grad=True)).sum().backward()
        if recorded:
            relu.sum().backward()


def test_threads_share_a_layer() -> None:
    module = layer()
    images = [image(module) for _ in range(8)]
    expected = [truth(module, x) for x in images]

    def run(i: int) -> bool:
        with torch.no_grad():
            if i % 16 == 0:
                module.train()
                module.eval()
            return torch.equal(module(images[i % 8]), expected[i % 8])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(200)))


def test_bad_input_is_refused_with_a_full_cache() -> None:
    module = layer()
    with torch.no_grad():
        module(image(module))
        with pytest.raises(ValueError, match="group_conv2d: x must be"):
            module(torch.randn(2, 4, 4, 6, 7))
        with pytest.raises(TypeError, match="must have x's dtype"):
            module(image(module).double())
