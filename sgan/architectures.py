"""The published networks as data: one row per generator and per discriminator, in planar widths.

Widths on a group follow from a row by `sgan.widths`. A row says nothing of the group, the resolution, the number of
classes or the loss: any row runs on any group that its filters are exact for, at any resolution that its stages reach.
`kind` says what the network makes or takes: "images", "points" of the plane, or "pairs", images made from images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "PIX2PIX_DISCRIMINATOR",
    "PIX2PIX_GENERATOR",
    "DiscriminatorRow",
    "GeneratorRow",
    "PatchDiscriminatorRow",
    "PerceptronDiscriminatorRow",
    "PerceptronGeneratorRow",
    "StridedFilter",
    "TransposedFilter",
    "UNetRow",
]

Widths = tuple[int, ...]


class TransposedFilter(NamedTuple):
    """A transposed convolution of stride 2: size, padding and output padding of its filter."""

    size: int
    padding: int
    output_padding: int = 0


class StridedFilter(NamedTuple):
    """A convolution: size, stride and padding of its filter, what normalises it, and the fraction dropped after it.

    norm: "none", "spectral", "weight" (the weight's, per channel; arXiv 1602.07868) or "batch" (the output's).
    """

    size: int
    stride: int
    padding: int
    norm: str = "none"
    dropout: float = 0.0


@dataclass(frozen=True)
class GeneratorRow:
    """A generator from a latent map: projection, stages, convolution to the image, maximum over the group.

    Attributes:
        source: where it was published.
        widths: planar channels, one per stage; those of "plain" begin with the lifting layer and fit any resolution.
        stage: "plain" (`SynthesisBlock`), "residual" or "transposed" (`sgan.blocks`).
        map_channels: channels of the latent map.
        map_side: its height and width; None: the smallest that `stage_resolutions` gives.
        latent_dim, label_dim: entries of z and of the label embedding.
        conditional: whether labels are seen.
        widths_on: published widths by group name, where they are not planar ones over sqrt(|G|).
        match_parameters: search widths on a group for the planar network's parameter count.
        normalise: spectral norm on the stages' convolutions.
        transposed: filters of "transposed", one more than widths, the last one's output is the image.
        map_norm: of the projection: "spectral", or "batch" per number of the map.
        map_activation, activation: of sgan.blocks.ACTIVATIONS, None for no activation.
        output: "tanh", or "sigmoid" as 2 s(x) - 1 for pixels in [-1, 1].
        norm_momentum: torch's batch norm momentum as published; 0.9 is Keras' 0.1.
    """

    kind: ClassVar[str] = "images"
    source: str
    widths: Widths
    stage: str = "residual"
    map_channels: int = 128
    map_side: int | None = 4
    latent_dim: int = 128
    label_dim: int = 128
    conditional: bool = True
    widths_on: Mapping[str, Widths] = field(default_factory=dict)
    match_parameters: bool = False
    normalise: bool = True
    transposed: tuple[TransposedFilter, ...] = ()
    map_norm: str = "spectral"
    map_activation: str | None = None
    activation: str = "relu"
    output: str = "tanh"
    norm_momentum: float = 0.9


@dataclass(frozen=True)
class DiscriminatorRow:
    """A discriminator of images: stages, maximum over the group, a number per channel, score.

    Attributes:
        source: where it was published.
        widths: planar channels, one per stage; those of "plain" end with the last one and fit any resolution.
        stage: "plain" (`AnalysisBlock`), "residual" or "strided" (`sgan.blocks`).
        widths_on, match_parameters: as in GeneratorRow.
        downsampling: "average" or "max".
        downsamplings: stages that halve the map, the first ones; None for all.
        planar_stages: stages after the maximum over the group, the last ones, with their planar widths. With any, D is
            not invariant: it is equivariant up to the maximum, and may then tell an upright photograph from a turned
            one. So are the published ones.
        batch_norm: normalise before each ReLU of "residual".
        strided: filters of "strided", one per stage.
        readout: "mean", "sum" or "max" over the plane, or "flatten", which is not invariant and C1's alone.
        minibatch: kernels and their dimension of minibatch discrimination, or None.
        conditional: whether labels are seen.
        input_noise: standard deviation of noise on the images, in training.
        normalise_head: spectral norm on the last layer.
        norm_momentum: torch's, of batch norms.
    """

    kind: ClassVar[str] = "images"
    source: str
    widths: Widths
    stage: str = "residual"
    widths_on: Mapping[str, Widths] = field(default_factory=dict)
    match_parameters: bool = False
    downsampling: str = "max"
    downsamplings: int | None = None
    planar_stages: int = 0
    batch_norm: bool = False
    strided: tuple[StridedFilter, ...] = ()
    readout: str = "mean"
    minibatch: tuple[int, int] | None = None
    input_noise: float = 0.0
    conditional: bool = True
    normalise_head: bool = True
    norm_momentum: float = 0.9


@dataclass(frozen=True)
class PerceptronGeneratorRow:
    """A multilayer perceptron from z to an image or a point, without labels.

    Attributes:
        source: where it was published.
        widths: of the hidden layers.
        activation: of sgan.blocks.ACTIVATIONS, after each of them.
        output: "tanh" or "linear".
        latent_dim: entries of z.
        points: make points (N, 2) instead of images.
        components: what a latent law with components does: "mixture" (DeLiGAN), "one-hot" (a mixture of experts: the
            component's one-hot vector beside z) or "ensemble" (a network per component).
    """

    conditional: ClassVar[bool] = False
    source: str
    widths: Widths
    activation: str
    output: str
    latent_dim: int
    points: bool = False
    components: str = "mixture"

    @property
    def kind(self) -> str:
        """What it makes: "points" or "images"."""
        return "points" if self.points else "images"


@dataclass(frozen=True)
class PerceptronDiscriminatorRow:
    """A multilayer perceptron from an image or a point to a score, without labels; attributes as above."""

    conditional: ClassVar[bool] = False
    source: str
    widths: Widths
    activation: str
    points: bool = False

    @property
    def kind(self) -> str:
        """What it takes: "points" or "images"."""
        return "points" if self.points else "images"


@dataclass(frozen=True)
class UNetRow:
    """The generator of image translation: widths of the encoder, outermost first, one per halving of the image.

    Attributes:
        source: where it was published.
        widths: planar channels.
        dropout: fraction of numbers dropped in training, in the `dropped` decoder stages after the innermost.
        dropped: how many stages drop.
    """

    kind: ClassVar[str] = "pairs"
    conditional: ClassVar[bool] = False
    source: str
    widths: Widths
    dropout: float = 0.5
    dropped: int = 3


@dataclass(frozen=True)
class PatchDiscriminatorRow:
    """The discriminator of image translation, one score per patch.

    Attributes:
        source: where it was published.
        widths: planar channels of 4 x 4 convolutions, all but the last one with stride 2.
    """

    kind: ClassVar[str] = "pairs"
    conditional: ClassVar[bool] = False
    source: str
    widths: Widths


_SP_GAN = "SP-GAN, arXiv 2202.01129"
_GE_GAN = "GE-GAN, arXiv 2005.01683"
_SAN = "simple-san, arXiv 2301.12811"
_DELIGAN = "DeLiGAN, arXiv 1706.02071"
_PIX2PIX = "pix2pix, arXiv 1611.07004, with GE-GAN's convolutions"
_TOY = f"{_DELIGAN}, toy"

_DOUBLING = TransposedFilter(5, 2, 1)


def _deligan_generator(
    data: str, map_channels: int, *, latent_dim: int = 100, first: TransposedFilter = _DOUBLING
) -> GeneratorRow:
    """From a 4 x 4 map, with half the channels at every doubling; the first one of MNIST's makes 7 x 7."""
    return GeneratorRow(
        f"{_DELIGAN}, {data}",
        (map_channels // 2, map_channels // 4),
        stage="transposed",
        map_channels=map_channels,
        latent_dim=latent_dim,
        conditional=False,
        normalise=False,
        transposed=(first, _DOUBLING, _DOUBLING),
        map_norm="batch",
        map_activation="relu",
        norm_momentum=0.1,
    )


PIX2PIX_GENERATOR = UNetRow(_PIX2PIX, (64, 128, 256, 512, 512, 512, 512, 512))
PIX2PIX_DISCRIMINATOR = PatchDiscriminatorRow(_PIX2PIX, (64, 128, 256, 512))

GENERATORS: dict[str, GeneratorRow | PerceptronGeneratorRow | UNetRow] = {
    "digits": GeneratorRow(
        f"{_SP_GAN}, RotMNIST, with as many parameters on every group",
        (512, 256, 128),
        stage="plain",
        map_side=None,
        latent_dim=64,
        label_dim=64,
        match_parameters=True,
        normalise=False,
    ),
    "rotmnist": GeneratorRow(
        f"{_SP_GAN}, and {_GE_GAN}, RotMNIST",
        (512, 256, 128),
        stage="plain",
        map_side=None,
        latent_dim=64,
        label_dim=64,
        widths_on={"C8": (180, 90, 45)},
    ),
    "medical-64": GeneratorRow(f"{_SP_GAN}, ANHIR and LYSTO", (256, 128, 64, 32, 16)),
    "anhir-128": GeneratorRow(f"{_GE_GAN}, ANHIR", (512, 256, 128, 64, 32)),
    "lysto-256": GeneratorRow(f"{_GE_GAN}, LYSTO", (512, 256, 128, 64, 32, 16)),
    "cifar10-32": GeneratorRow(f"{_GE_GAN}, CIFAR-10", (256, 256, 256), map_channels=256),
    "food101-64": GeneratorRow(f"{_GE_GAN}, Food-101", (512, 384, 256, 192), map_channels=1024, label_dim=64),
    "mnist-mlp": PerceptronGeneratorRow("GAN, MNIST", (256, 512, 1024), "leaky_relu", "tanh", latent_dim=100),
    "mnist-conv": GeneratorRow(
        f"{_SAN}, MNIST",
        (256, 128),
        stage="transposed",
        map_channels=512,
        map_side=3,
        latent_dim=100,
        label_dim=100,
        conditional=False,
        normalise=False,
        transposed=(TransposedFilter(4, 1), TransposedFilter(4, 1), TransposedFilter(6, 0)),
        map_norm="none",
        map_activation="slightly_leaky_relu",
        activation="silu",
        output="sigmoid",
        norm_momentum=0.1,
    ),
    "mnist-deligan": _deligan_generator("MNIST", 64, latent_dim=30, first=TransposedFilter(3, 1)),
    "cifar10-deligan": _deligan_generator("CIFAR-10", 512),
    "sketches-deligan": _deligan_generator("sketches", 160),
    "toy": PerceptronGeneratorRow(_TOY, (32,), "tanh", "tanh", latent_dim=2, points=True),
    "toy-gan++": PerceptronGeneratorRow(f"{_TOY}: one more layer", (50, 32), "tanh", "tanh", latent_dim=2, points=True),
    "toy-nx": PerceptronGeneratorRow(f"{_TOY}: N = 50 times wider", (1600,), "tanh", "tanh", latent_dim=2, points=True),
    "toy-moe": PerceptronGeneratorRow(
        f"{_TOY}: mixture of experts", (32,), "tanh", "tanh", latent_dim=2, points=True, components="one-hot"
    ),
    "toy-ensemble": PerceptronGeneratorRow(
        f"{_TOY}: ensemble", (32,), "tanh", "tanh", latent_dim=2, points=True, components="ensemble"
    ),
    "points": PerceptronGeneratorRow(f"{_SP_GAN}, points", (64, 64), "relu", "linear", latent_dim=2, points=True),
    "pix2pix": PIX2PIX_GENERATOR,
}

DISCRIMINATORS: dict[str, DiscriminatorRow | PerceptronDiscriminatorRow | PatchDiscriminatorRow] = {
    "digits": DiscriminatorRow(
        f"{_SP_GAN}, RotMNIST, with as many parameters on every group",
        (128, 256, 512),
        stage="plain",
        match_parameters=True,
        downsampling="average",
    ),
    "rotmnist": DiscriminatorRow(
        f"{_SP_GAN}, and {_GE_GAN}, RotMNIST",
        (128, 256, 512),
        stage="plain",
        widths_on={"C8": (45, 90, 180)},
        downsampling="average",
    ),
    "medical-64": DiscriminatorRow(f"{_SP_GAN}, ANHIR and LYSTO", (16, 32, 64, 128, 256)),
    "anhir-128": DiscriminatorRow(f"{_GE_GAN}, ANHIR", (32, 64, 128, 256, 512)),
    "lysto-256": DiscriminatorRow(f"{_GE_GAN}, LYSTO", (16, 32, 64, 128, 256, 512), batch_norm=True),
    "cifar10-32": DiscriminatorRow(
        f"{_GE_GAN}, CIFAR-10",
        (128, 128, 128, 128),
        downsampling="average",
        downsamplings=2,
        planar_stages=1,
        readout="sum",
    ),
    "food101-64": DiscriminatorRow(f"{_GE_GAN}, Food-101", (128, 256, 512, 784), planar_stages=1),
    "mnist-mlp": PerceptronDiscriminatorRow("GAN, MNIST", (1024, 512, 256), "leaky_relu"),
    "mnist-conv": DiscriminatorRow(
        f"{_SAN}, MNIST",
        (128, 256, 512),
        stage="strided",
        strided=(StridedFilter(6, 2, 0), StridedFilter(4, 2, 1, "spectral"), StridedFilter(4, 2, 1, "spectral")),
        readout="flatten",
        conditional=False,
        normalise_head=False,
    ),
    "mnist-deligan": DiscriminatorRow(
        f"{_DELIGAN}, MNIST",
        (16, 32, 64),
        stage="strided",
        strided=(StridedFilter(5, 2, 2), StridedFilter(5, 2, 2, "batch"), StridedFilter(3, 2, 1, "batch")),
        readout="max",
        minibatch=(64, 5),
        conditional=False,
        normalise_head=False,
        norm_momentum=0.1,
    ),
    "cifar10-deligan": DiscriminatorRow(
        f"{_DELIGAN}, CIFAR-10",
        (96, 96, 96, 192, 192, 192, 192, 192, 192),
        stage="strided",
        strided=(
            StridedFilter(3, 1, 1, "weight"),
            StridedFilter(3, 1, 1, "weight"),
            StridedFilter(3, 2, 1, "weight", dropout=0.5),
            StridedFilter(3, 1, 1, "weight"),
            StridedFilter(3, 1, 1, "weight"),
            StridedFilter(3, 2, 1, "weight", dropout=0.5),
            StridedFilter(3, 1, 0, "weight"),
            StridedFilter(1, 1, 0, "weight"),
            StridedFilter(1, 1, 0, "weight"),
        ),
        minibatch=(100, 5),
        input_noise=0.2,
        conditional=False,
        normalise_head=False,
    ),
    "sketches-deligan": DiscriminatorRow(
        f"{_DELIGAN}, sketches",
        (20, 20, 40, 80, 80),
        stage="strided",
        strided=(
            StridedFilter(5, 1, 1, "weight"),
            StridedFilter(5, 2, 1, "weight", dropout=0.5),
            StridedFilter(5, 2, 1, "weight", dropout=0.5),
            StridedFilter(3, 2, 0, "weight"),
            StridedFilter(1, 1, 0, "weight"),
        ),
        minibatch=(50, 5),
        input_noise=0.2,
        conditional=False,
        normalise_head=False,
    ),
    "toy": PerceptronDiscriminatorRow(_TOY, (32,), "tanh", points=True),
    "points": PerceptronDiscriminatorRow(f"{_SP_GAN}, points", (64, 64), "relu", points=True),
    "pix2pix": PIX2PIX_DISCRIMINATOR,
}
