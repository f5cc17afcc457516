"""Steps replayed from a graph: simulated op by op on the CPU, watched on the meta device, real where there is CUDA.

A CUDA graph runs no Python. The simulation writes down every op of a step with the tensors that it was given, undoes
the step, and then runs the ops again on the same memory: whatever Python would have done anew in another step, such as
drawing numbers, changing a rate or making the optimiser's state, is missing from a replay here as it is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gconv.nn as gnn
from gconv import CyclicGroup, DihedralGroup, PlanarGroup
from gconv.backends import dense, reference
from sgan.config import Options
from sgan.cuda_graph import WARM_UP, CudaRecorder, GraphedStep, mapped, tensors_of
from sgan.data import load_dataset
from sgan.session import train
from sgan.trainer import Draws, Trainer

POINTS: dict[str, Any] = {
    "data": "toy-c4",
    "subset": None,
    "generator": "points",
    "discriminator": "points",
    "generator_width": 0.25,
    "discriminator_width": 0.25,
}
PLANAR_POINTS: dict[str, Any] = {**POINTS, "generator_group": "C1", "discriminator_group": "C1"}
STEPS: dict[str, dict[str, Any]] = {
    "r1": {"d_steps": 2},
    "rates that fall to 0": {"decay_from": 0.006, "decay_to": 0.02},
    "no average": {"ema_kimg": None},
    "one-sided penalty": {"loss": "alpha2", "penalty": "one-sided", "penalty_weight": 10.0},
    "two-sided penalty": {"loss": "wasserstein", "penalty": "two-sided", "penalty_weight": 10.0},
    "clipped weights": {"loss": "wasserstein", "penalty": "none", "clip": 0.01},
    "SAN": {"loss": "hinge", "head": "san"},
    "augmentation": {"discriminator_group": "C1", "augment": "C4"},
    "mixture": {"components": 3, "latent_weight": 0.1},
    "published defects": {"faithful": True},
    "C8": {"generator_group": "C8", "discriminator_group": "C8"},
    "projection": {"projected": True},
    "residual": {"generator": "medical-64", "discriminator": "medical-64", "resolution": 8},
    "dropout": {"discriminator": "sketches-deligan", "discriminator_group": "C1", "penalty": "none", "resolution": 32},
    "points": {**POINTS, "components": 2},
    "augmented points": {**PLANAR_POINTS, "augment": "C8"},
    "ensemble": {**PLANAR_POINTS, "generator": "toy-ensemble", "components": 2},
    "pairs": {"generator": "pix2pix", "discriminator": "pix2pix", "resolution": 32, "subset": None, "l1_weight": 10.0},
}


def without(*names: str) -> list[str]:
    """STEPS but for some, which take long here and show nothing of their own."""
    return [name for name in STEPS if name not in names]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six pairs to train on and two held-out ones, 16 x 16 pixels each."""
    path = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        (path / part).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / part / f"{number}.png")
    return str(path)


def make(tiny: Options, pairs: str, name: str, recorder: Any = None, **changes: Any) -> Trainer:
    """A trainer on batches of 4, of one row of STEPS."""
    data = {"data": pairs} if name == "pairs" else {}
    options = replace(tiny, **{"batch": 4, "ema_kimg": 0.1} | data | STEPS[name] | changes)
    dataset = load_dataset(options.data, subset=options.subset, resolution=options.resolution)
    return Trainer(options, dataset, recorder=recorder)


class Tape(TorchDispatchMode):
    """Every op that runs inside, with its arguments and results; `undo` puts back what they changed."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Any, Any, Any, Any]] = []
        self._made: set[int] = set()
        self._found: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in leaves([args, kwargs]):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made and storage._cdata not in self._found:
                self._found[storage._cdata] = storage, storage.clone()
        result = func(*args, **kwargs)
        self.ops.append((func, args, kwargs, result))
        self._made |= {tensor.untyped_storage()._cdata for tensor in leaves(result)} - self._found.keys()
        return result

    def undo(self) -> None:
        for storage, before in self._found.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.ops:
            aliases = [returned.alias_info for returned in func._schema.returns if returned.alias_info is not None]
            if torch.Tag.inplace_view in func.tags or not all(alias.is_write for alias in aliases):
                continue  # a view of memory that is filled already
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(leaves(result), leaves(again), strict=True):
                    old.copy_(new.view_as(old))


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of nested lists, tuples and dicts."""
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in parts for tensor in leaves(part)]


class Simulation:
    """A recorder on the CPU."""

    def __init__(self) -> None:
        self.replays = 0

    def ordered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def watched(self) -> AbstractContextManager[list[str]]:
        return nullcontext([])

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        tape, random_state = Tape(), torch.get_rng_state()
        with tape:
            function()
        tape.undo()
        torch.set_rng_state(random_state)

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay

    def recover(self) -> None:
        raise AssertionError("nothing has failed")


def assert_same_state(a: Trainer, b: Trainer) -> None:
    mine, theirs = a.state(), b.state()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step is recorded, to save time."""
    monkeypatch.setattr("sgan.cuda_graph.WARM_UP", 1)


def assert_alike(replayed: Trainer, ordinary: Trainer, steps: int) -> None:
    """These steps of both give the same scalars and the same state, bit for bit."""
    for _ in range(steps):
        mine, theirs = replayed.step(), ordinary.step()
        assert mine.keys() == theirs.keys()
        assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []
    assert_same_state(replayed, ordinary)
    assert all(tensor.isfinite().all() for tensor in replayed.state().values())


def replayed_and_ordinary(tiny: Options, pairs: str, name: str, recorder: Simulation) -> tuple[Trainer, Trainer]:
    replayed, ordinary = (make(tiny, pairs, name, recorder) for recorder in (recorder, Simulation()))
    ordinary.graphed = None
    return replayed, ordinary


@pytest.mark.parametrize("name", without("two-sided penalty", "C8", "projection", "residual", "augmented points"))
def test_a_replayed_step_is_an_ordinary_step_bit_for_bit(tiny: Options, pairs: str, soon: None, name: str) -> None:
    simulation = Simulation()
    assert_alike(*replayed_and_ordinary(tiny, pairs, name, simulation), steps=3)
    assert simulation.replays == 2


def test_a_resumed_run_is_recorded_anew(tiny: Options, pairs: str) -> None:
    """Resuming moves the optimisers' state. In the end the rates are 0."""
    simulation = Simulation()
    replayed, ordinary = replayed_and_ordinary(tiny, pairs, "rates that fall to 0", simulation)
    assert_alike(replayed, ordinary, WARM_UP + 1)
    replayed.load_state({name: tensor.clone() for name, tensor in replayed.state().items()})
    assert_alike(replayed, ordinary, WARM_UP + 2)
    assert simulation.replays == 3
    assert len(replayed.notes) == 2
    assert float(replayed.optimizer_g.param_groups[0]["lr"]) == 0


def memory_of(trainer: Trainer) -> dict[str, int]:
    """Where all that a graph reads and writes lies."""
    assert trainer.graphed is not None
    tensors = trainer.state() | {"decay": trainer.decay}
    tensors |= {f"input {i}": tensor for i, tensor in enumerate(tensors_of(trainer.graphed._inputs))}
    for name, player, optimizer in (
        ("g", trainer.generator, trainer.optimizer_g),
        ("d", trainer.discriminator, trainer.optimizer_d),
    ):
        tensors |= {f"{name} gradient {key}": parameter.grad for key, parameter in player.named_parameters()}
        tensors |= {f"{name} buffer {key}": buffer for key, buffer in player.named_buffers()}
        tensors[f"{name} rate"] = optimizer.param_groups[0]["lr"]
    del tensors["images_seen"]
    tensors = {name: tensor for name, tensor in tensors.items() if "_extra_state" not in name}  # made when asked for
    return {name: tensor.data_ptr() for name, tensor in tensors.items() if isinstance(tensor, Tensor)}


@pytest.mark.parametrize("name", ["r1", "points", "pairs"])
def test_nothing_moves_once_a_step_is_recorded(tiny: Options, pairs: str, soon: None, name: str) -> None:
    trainer = make(tiny, pairs, name, Simulation())
    for _ in range(2):
        trainer.step()
    before = memory_of(trainer)
    assert sum("gradient" in name for name in before) > 4
    scalars = trainer.step()
    assert memory_of(trainer) == before
    values = {name: float(value) for name, value in scalars.items()}
    trainer.step()
    assert {name: float(value) for name, value in scalars.items()} == values  # a step's scalars are its own


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_devices_optimiser_and_average_are_the_cpus(tiny: Options, pairs: str, double: None) -> None:
    """On points, which take the default dtype; the device's rates are float32."""
    changes = {"decay_from": 0.004, "decay_to": 0.1, "penalty": "none", "loss": "non-saturating"}
    on_device, on_cpu = (make(tiny, pairs, "ensemble", recorder, **changes) for recorder in (Simulation(), None))
    for trainer in (on_device, on_cpu):
        trainer.train_set = type(trainer.train_set)(trainer.train_set.images.double(), trainer.train_set.labels)
    start = {name: tensor.clone() for name, tensor in on_cpu.state().items()}
    for _ in range(WARM_UP + 3):
        on_device.step()
        on_cpu.step()
    end = on_cpu.state()
    for name, value in on_device.state().items():
        torch.testing.assert_close(
            value, end[name], rtol=1e-5, atol=1e-7, check_dtype=False, msg=lambda m, n=name: f"{n}: {m}"
        )
    moved = [name for name in start if name.startswith("average.") and (end[name] - start[name]).abs().max() > 1e-3]
    assert len(moved) >= 4


class CallsPatrol(TorchFunctionMode):
    """Refuses calls that copy from the host: tensors of numbers, and indices that are lists.

    On the meta device no op tells of these copies; on CUDA the host waits for them. A mask as an index has to be
    counted.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), f"{func} copies from the host"
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            for index in args[1] if isinstance(args[1], tuple) else args[1:2]:
                assert not isinstance(index, list | np.ndarray), f"{index} is copied from the host"
                assert not (isinstance(index, Tensor) and index.dtype == torch.bool), "a mask is counted"
        return func(*args, **(kwargs or {}))


class OpsPatrol(TorchDispatchMode):
    """Refuses ops that give values to the host, make shapes of values, or take tensors or streams of the host's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert torch.Tag.data_dependent_output not in func.tags, f"{func} looks at values"
        is_index = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)  # CallsPatrol sees these
        assert is_index or torch.Tag.dynamic_output_shape not in func.tags, f"{func} has a shape made of values"
        assert kwargs.get("generator") is None, f"{func} draws from a stream of its own"
        result = func(*args, **kwargs)
        on_host = [tuple(tensor.shape) for tensor in leaves([args, kwargs, result]) if tensor.device.type != "meta"]
        assert not on_host, f"{func} has tensors on the host: {on_host}"
        return result


@contextmanager
def patrol() -> Iterator[None]:
    """Refuses what cannot be recorded, for tensors on the meta device."""
    with CallsPatrol(), OpsPatrol():
        yield


@pytest.fixture
def fused_on_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Adam as CUDA has it: torch knows no fused step with a rate on the meta device."""
    monkeypatch.setattr(
        sys.modules[torch.optim.Adam.__module__], "_device_dtype_check_for_fused", lambda parameter: None
    )
    library = torch.library.Library("aten", "IMPL", "Meta")
    library.impl("_fused_adam_.tensor_lr", lambda *arguments, **options: None)
    yield
    library._destroy()


@pytest.mark.parametrize("name", without("rates that fall to 0", "no average", "residual"))
def test_a_step_asks_nothing_of_the_host(tiny: Options, pairs: str, fused_on_meta: None, name: str) -> None:
    """On tensors without values, the second step, which finds tables and the optimisers' state."""
    trainer = make(tiny, pairs, name, Simulation(), device="meta")
    for watch in (nullcontext(), patrol()):
        trainer._set_learning_rates()
        inputs = trainer._on_device(trainer._draw_step())
        with watch:
            scalars = trainer.alternate(inputs)
    assert {"loss_discriminator", "loss_generator", "penalty"} <= scalars.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x[[0, 1]],
        lambda x: x[x > 0],
        lambda x: torch.tensor([1.0], device="meta"),
        lambda x: x * torch.ones(()),
        lambda x: torch.ones(4).to("meta"),
        lambda x: x.bernoulli(generator=torch.Generator()),
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.cpu(),
    ],
)
def test_the_patrol_finds_what_cannot_be_recorded(wrong: Callable[[Tensor], object]) -> None:
    x = torch.zeros(4, device="meta")
    with patrol():
        torch.where(x > 0, x, 1)[x.long()].mean() * 2
    with pytest.raises((AssertionError, NotImplementedError)), patrol():
        wrong(x)


def layers(group: PlanarGroup) -> list[nn.Module]:
    """One of every layer that a feature map of 3 channels can pass."""
    found: list[nn.Module] = [
        gnn.GroupConv2d(3, 3, 3, group=group, padding=1, padding_mode=m) for m in ("zeros", "reflect")
    ]
    found += [
        gnn.GroupConv2d(3, 3, 3, group=group, stride=2, padding=1, backend="dense"),
        gnn.GroupConv2d(3, 3, 3, group=group, backend="reference"),
        gnn.GroupConvTranspose2d(3, 3, 4, group=group, stride=2, padding=1),
        gnn.spectral_norm(gnn.GroupConv2d(3, 3, 3, group=group)),
        gnn.GroupBatchNorm2d(3),
        *(gnn.GroupDownsample2d(mode) for mode in ("average", "max", "blur")),
        *(gnn.GroupUpsample2d(mode) for mode in ("nearest", "blur")),
        *(gnn.GroupPool(group=group, mode=mode) for mode in ("max", "mean")),
        *(gnn.GroupPool(group=group, mode=mode, subgroup=[0]) for mode in ("max", "mean")),
    ]
    return found


@pytest.mark.parametrize("group", [CyclicGroup(4), DihedralGroup(4), CyclicGroup(8)], ids=str)
def test_layers_ask_nothing_of_the_host(group: PlanarGroup) -> None:
    """Forward, gradients and gradients of gradients, in training, and forward in evaluation."""
    image = torch.zeros(2, 1, 9, 9, device="meta", requires_grad=True)
    lift = gnn.spectral_norm(gnn.LiftingConv2d(1, 3, 5, group=group, padding="same")).to("meta")
    for layer in layers(group):
        layer.to("meta")
        with patrol():
            out = layer(lift(image))
            (gradient,) = torch.autograd.grad(out.square().sum(), image, create_graph=True)
            (out.sum() + gradient.square().sum()).backward()
            with torch.no_grad():
                layer.eval()(lift.eval()(image))
        lift.train()


@pytest.mark.parametrize("backend", [dense, reference], ids=["dense", "reference"])
@pytest.mark.parametrize("group", [CyclicGroup(1), CyclicGroup(4), DihedralGroup(4), CyclicGroup(8)], ids=str)
def test_kernels_in_torch_ask_nothing_of_the_host(backend: ModuleType, group: PlanarGroup) -> None:
    """Which the ops of layers do not run on the meta device, where their shapes are all that is asked for."""
    m, order = group.coset_count, group.lattice.order
    image, weights = torch.zeros(2, 3, 8, 8, device="meta"), torch.zeros(5 * m, 3, 3, 3, device="meta")
    map_, filters = (
        torch.zeros(2, 3, group.order, 8, 8, device="meta"),
        torch.zeros(5 * m, 3 * m, order, 3, 3, device="meta"),
    )
    whole = group.cosets([*group.elements])
    with patrol():
        for x, weight in ((image, weights), (map_, filters)):
            for stride in (1, 2):
                out = backend.conv2d(x, weight, torch.zeros(5, device="meta"), group, stride, 1)
                assert backend.conv2d_input_grad(out, weight, group, 8, 8, stride, 1).shape == x.shape
                assert backend.conv2d_weight_grad(x, out, group, 3, stride, 1).shape == weight.shape
        for cosets in (whole, group.cosets([0])):
            for mode in ("max", "mean"):
                pooled, index = backend.group_pool(map_, cosets, mode)
                assert backend.group_pool_backward(pooled, index, cosets, mode).shape == map_.shape
            assert (
                backend.group_pool_select(map_, torch.zeros_like(pooled, dtype=torch.uint8), cosets).shape
                == pooled.shape
            )


class Scripted(Simulation):
    """A recorder that finds these waits, and that fails if told to."""

    def __init__(self, waits: Sequence[str] = (), error: str | None = None) -> None:
        super().__init__()
        self.waits, self.error, self.recovered = waits, error, False

    def watched(self) -> AbstractContextManager[list[str]]:
        return nullcontext([*self.waits])

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        if self.error is None:
            return super().record(function)
        try:
            raise RuntimeError(f"{self.error}\nand more of it")
        finally:
            raise RuntimeError("ending the recording failed, too")  # as torch.cuda.graph's exit does

    def recover(self) -> None:
        self.recovered = True


def counter(recorder: Any, *, required: bool = False) -> tuple[GraphedStep[tuple[Tensor]], list[str]]:
    """A step that adds its input to a total."""
    total, notes = torch.zeros(()), []

    def function(inputs: tuple[Tensor]) -> dict[str, Tensor]:
        return {"total": total.add_(inputs[0].sum()).clone()}

    step = GraphedStep(function, recorder, device=torch.device("cpu"), required=required, note=notes.append)
    return step, notes


def totals(step: GraphedStep[tuple[Tensor]], steps: int) -> list[float]:
    return [float(step((torch.full((2,), float(n)),))["total"]) for n in range(steps)]


REFUSED = "CUDA graph: none, every step launches its kernels one by one: "


@pytest.mark.parametrize(
    ("recorder", "reason"),
    [
        (Scripted(waits=["blocks.py:7", "b.py:1"]), "the host waits for the device at blocks.py:7"),
        (Scripted(error="operation not permitted"), "recording it failed: operation not permitted"),
    ],
)
def test_what_cannot_be_recorded_goes_on_step_by_step_and_says_why(recorder: Scripted, reason: str) -> None:
    step, notes = counter(recorder)
    assert totals(step, 7) == [0, 2, 6, 12, 20, 30, 42]
    assert notes == [REFUSED + reason]
    assert step.refused_because == reason
    assert recorder.replays == 0
    assert recorder.recovered == (recorder.error is not None)
    required, _ = counter(recorder, required=True)
    with pytest.raises(ValueError, match=f"^train: cuda_graph must be auto or off here, got on: {reason}$"):
        totals(required, 7)


def test_a_recorded_step_says_so_and_refuses_other_shapes() -> None:
    recorder = Simulation()
    step, notes = counter(recorder)
    assert step.steps_to_come == WARM_UP
    assert totals(step, 6) == [0, 2, 6, 12, 20, 30]
    assert step.steps_to_come == 0
    assert recorder.replays == 3
    assert notes == [f"CUDA graph: a step is replayed from here on, after {WARM_UP} ordinary ones"]
    assert float(step((torch.ones(5),))["total"]) == 35
    assert float(step((torch.ones(2),))["total"]) == 37
    assert notes[1:] == [f"{REFUSED}the shapes of a step's inputs have changed"]
    assert recorder.replays == 3


def test_trees_are_mapped_to_trees() -> None:
    tree = (torch.ones(1), (), Draws(None, torch.ones(2), None))
    doubled = mapped(lambda tensor: 2 * tensor, tree)
    assert isinstance(doubled[2], Draws)
    assert doubled[1:2] == ((),)
    assert doubled[2].latents is None
    assert [tensor.tolist() for tensor in tensors_of(doubled)] == [[2], [2, 2]]


def test_a_threshold_has_no_graph_and_says_so(tiny: Options, pairs: str) -> None:
    trainer = make(tiny, pairs, "points", Simulation(), schedule="threshold", loss="non-saturating", penalty="none")
    assert trainer.notes == [f"{REFUSED}the schedule threshold looks at a loss before every update"]
    for _ in range(WARM_UP + 1):
        assert all(map(torch.isfinite, trainer.step().values()))


def test_a_run_from_a_graph_logs_and_measures_its_steps(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, *given: original(self, *given, recorder=Simulation()))
    run = train(replace(tiny, kimg=1), tmp_path).path
    log = (run / "log.txt").read_text()
    assert log.count("CUDA graph: a step is replayed from here on") == 1
    assert "loss_generator" in log


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "device must be a CUDA device with cuda_graph \"on\", got 'cpu'"),
        (
            {"device": "cuda:1", "schedule": "threshold"},
            "schedule must be alternating with cuda_graph \"on\", got 'threshold'",
        ),
    ],
)
def test_a_graph_that_cannot_be_is_refused_when_asked_for(tiny: Options, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^Options: {message}$"):
        replace(tiny, cuda_graph="on", **changes)


def test_there_is_no_graph_on_a_cpu(tiny: Options) -> None:
    trainer = Trainer(tiny, load_dataset(tiny.data, subset=tiny.subset))
    assert trainer.graphed is None
    assert trainer.notes == []
    assert trainer.steps_to_warm_up == 0
    assert isinstance(trainer.optimizer_g.param_groups[0]["lr"], float)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions in float32, which cuDNN otherwise rounds to TF32 by algorithms that it may choose anew."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@needs_cuda
@pytest.mark.parametrize("name", STEPS)
def test_five_steps_from_a_cuda_graph_are_five_ordinary_ones(tiny: Options, pairs: str, name: str) -> None:
    """As near as sums in another order leave them: the players part by less than 5 % of the way that they went."""
    with full_precision():
        graphed, ordinary = (make(tiny, pairs, name, device="cuda", cuda_graph=mode) for mode in ("on", "off"))
        start = {key: tensor.clone() for key, tensor in ordinary.state().items()}
        for _ in range(WARM_UP + 5):
            mine, theirs = graphed.step(), ordinary.step()
            assert mine.keys() == theirs.keys()
            for key in mine:
                torch.testing.assert_close(mine[key], theirs[key], rtol=1e-2, atol=1e-3)
    assert graphed.notes == [f"CUDA graph: a step is replayed from here on, after {WARM_UP} ordinary ones"]
    mine, theirs = graphed.state(), ordinary.state()
    assert int(mine["images_seen"]) == int(theirs["images_seen"])
    for player in ("generator", "discriminator", "average"):
        names = [key for key in start if key.startswith(f"{player}.") and start[key].is_floating_point()]
        apart, gone = (
            torch.stack([(mine[key] - other[key]).norm() for key in names]).norm() for other in (theirs, start)
        )
        assert gone > 0
        assert apart < 0.05 * gone, player


@needs_cuda
def test_a_cuda_run_resumes(tiny: Options, tmp_path: Path) -> None:
    run = train(replace(tiny, device="cuda", kimg=1), tmp_path).path
    train(replace(tiny, device="cuda", kimg=2), tmp_path)
    assert (run / "log.txt").read_text().count("CUDA graph: a step is replayed") == 2


@needs_cuda
@pytest.mark.parametrize("is_watched", [True, False])
def test_a_step_that_waits_for_the_device_is_not_recorded(monkeypatch: pytest.MonkeyPatch, is_watched: bool) -> None:
    """Found before it is recorded, or by the recording that fails: both go on, and layers can draw."""
    device, notes = torch.device("cuda"), []
    if not is_watched:
        monkeypatch.setattr(CudaRecorder, "watched", lambda self: nullcontext([]))

    def function(inputs: tuple[Tensor]) -> dict[str, Tensor]:
        dropped = nn.functional.dropout(inputs[0], 0.5)
        return {"value": dropped * 0 + float(inputs[0])}

    step = GraphedStep(function, CudaRecorder(device), device=device, required=False, note=notes.append)
    values = [float(step((torch.full((), float(n)),))["value"]) for n in range(WARM_UP + 3)]
    assert values == list(map(float, range(WARM_UP + 3)))
    assert len(notes) == 1
    expected = "the host waits for the device at test_cuda_graph.py:" if is_watched else "recording it failed: "
    assert notes[0].startswith(REFUSED + expected)
    assert torch.rand(3, device=device).isfinite().all()
