"""A step of training as a CUDA graph: recorded once, then launched whole.

The step's kernels are small, so launching them one by one can take the host longer than the GPU needs to run them. A
graph repeats the same kernels on the same addresses, with the numbers that the host gave when it was recorded. So what
is recorded must be a function of tensors that stay where they are: what changes from step to step is copied into static
inputs, and nothing in it copies from or to the host, asks for a value, or changes its shapes. What layers draw comes
from the device's default generator; torch hands its seed and offset to every replay.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["WARM_UP", "CudaRecorder", "GraphedStep", "Recorder", "Tree", "mapped", "refusal", "tensors_of"]

WARM_UP = 3  # steps before one is recorded; cuDNN, optimisers and tables make on first use what must be there by then
Tree = TypeVar("Tree")  # nested tuples, plain and named, of tensors and Nones


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in order."""
    if tree is None:
        return []
    return [tree] if isinstance(tree, Tensor) else [tensor for part in tree for tensor in tensors_of(part)]


def mapped(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The same tree, with the function of every tensor in its place."""

    def of(part: Any) -> Any:
        if part is None or isinstance(part, Tensor):
            return None if part is None else function(part)
        parts = map(of, part)
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)

    result: Tree = of(tree)
    return result


class Recorder(Protocol):
    """What records a function: `CudaRecorder`, or a stand-in for it in tests."""

    def ordered(self) -> AbstractContextManager[None]:
        """Runs what is inside where it can be recorded, after what came before and before what comes after."""

    def watched(self) -> AbstractContextManager[list[str]]:
        """A list of the places inside where the host waited for the device, complete at the end."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Calls the function without running its kernels; what it returns runs them, as often as it is called."""

    def recover(self) -> None:
        """Makes eager steps possible after a record that raised."""


class GraphedStep(Generic[Tree]):
    """A function of a tree of tensors that is replayed from a graph, after `WARM_UP` ordinary steps.

    Those are steps like all others: nothing is run in vain. Where the function cannot be recorded, every step stays an
    ordinary one.

    Args:
        function: from inputs on the device to named scalars. May change other tensors in place, none but in place.
        recorder: of the device.
        device: where the inputs go.
        required: raise where the function cannot be recorded.
        note: is told, in a line, once it is recorded or why it cannot be.

    Attributes:
        refused_because: why every step is an ordinary one; None while they are not.
    """

    def __init__(
        self,
        function: Callable[[Tree], dict[str, Tensor]],
        recorder: Recorder,
        *,
        device: torch.device,
        required: bool,
        note: Callable[[str], None],
    ) -> None:
        self.function = function
        self.recorder = recorder
        self.device = device
        self.required = required
        self.note = note
        self.refused_because: str | None = None
        self.forget()

    def forget(self) -> None:
        """Record anew: tensors that the function reads or changes have moved."""
        self._inputs: Tree | None = None
        self._steps = 0
        self._replay: Callable[[], None] | None = None
        self._names: tuple[str, ...] = ()
        self._values = torch.empty(0)

    @property
    def steps_to_come(self) -> int:
        """Ordinary steps before the first replay."""
        return 0 if self.refused_because is not None else max(0, WARM_UP - self._steps)

    def __call__(self, inputs: Tree) -> dict[str, Tensor]:
        """The function's scalars.

        Args:
            inputs: anywhere, of the same shapes every time.

        Raises:
            ValueError: the function cannot be recorded, and `required`.
        """
        with self.recorder.ordered():
            if self.refused_because is None and not self._fits(inputs):
                self._refuse("the shapes of a step's inputs have changed")
            if self.refused_because is not None:
                return self.function(mapped(lambda tensor: tensor.to(self.device), inputs))
            return self._step(self._static(inputs))

    def _step(self, inputs: Tree) -> dict[str, Tensor]:
        self._steps += 1
        if self._steps < WARM_UP:
            return self.function(inputs)
        if self._steps == WARM_UP:
            with self.recorder.watched() as waits:
                scalars = self.function(inputs)
            if waits:
                self._refuse(f"the host waits for the device at {waits[0]}")
            return scalars
        replay = self._replay or self._record(inputs)
        if replay is None:
            return self.function(inputs)
        replay()
        return dict(zip(self._names, self._values.clone().unbind(), strict=True))

    def _record(self, inputs: Tree) -> Callable[[], None] | None:
        def step() -> None:
            scalars = self.function(inputs)
            self._names, self._values = tuple(scalars), torch.stack([*scalars.values()])

        try:
            self._replay = self.recorder.record(step)
        except RuntimeError as error:
            self.recorder.recover()
            self._refuse(f"recording it failed: {_cause(error)}")
            return None
        self.note(f"CUDA graph: a step is replayed from here on, after {WARM_UP} ordinary ones")
        return self._replay

    def _fits(self, inputs: Tree) -> bool:
        static = self._inputs
        return static is None or [x.shape for x in tensors_of(inputs)] == [x.shape for x in tensors_of(static)]

    def _static(self, inputs: Tree) -> Tree:
        """The static inputs, with these values: the copies are queued, the host does not wait."""
        if self._inputs is None:
            self._inputs = mapped(lambda tensor: torch.empty_like(tensor, device=self.device), inputs)
        for target, source in zip(tensors_of(self._inputs), tensors_of(inputs), strict=True):
            target.copy_(source.pin_memory() if target.is_cuda and source.is_cpu else source, non_blocking=True)
        return self._inputs

    def _refuse(self, reason: str) -> None:
        if self.required:
            raise ValueError(f"train: cuda_graph must be auto or off here, got on: {reason}")
        self.refused_because = reason
        self.forget()
        self.note(refusal(reason))


def refusal(reason: str) -> str:
    """The line of the log that says why there is no graph."""
    return f"CUDA graph: none, every step launches its kernels one by one: {reason}"


def _cause(error: BaseException) -> str:
    """The first line of what went wrong first: ending a recording that has failed raises again."""
    while error.__context__ is not None:
        error = error.__context__
    return next(iter(str(error).splitlines()), type(error).__name__)


class CudaRecorder:
    """Records on a CUDA device, on a stream of its own.

    Ordinary steps run on the stream that will record them: autograd's nodes remember theirs, and one that remembers
    another stream cannot be recorded.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    @contextmanager
    def ordered(self) -> Iterator[None]:
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            outside.wait_stream(self.stream)

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        waits: list[str] = []
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield waits
            finally:
                torch.cuda.set_sync_debug_mode(before)
        for warning in caught:
            text = str(warning.message)
            if "called a synchronizing CUDA operation" in text:
                waits.append(f"{Path(warning.filename).name}:{warning.lineno}")
            elif "Synchronization debug mode" not in text:  # which torch calls a prototype, once
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        gc.collect()  # what is left of autograd graphs of other streams
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            function()
        return graph.replay

    def recover(self) -> None:
        """Torch 2.11 leaves the default generator in the recording that failed: a copy of its state is in none."""
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())
