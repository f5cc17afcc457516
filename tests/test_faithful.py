"""The published defects that faithful=True puts in, and what they do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gconv
import gconv.nn as gnn
from sgan.faithful import BatchNormPerOrientation, TruncatingDownsample, project_spectrum

C4 = gconv.CyclicGroup(4)


@pytest.mark.parametrize("mode", ["average", "max"])
def test_windows_of_an_odd_size_drop_the_last_row_and_column(mode: str) -> None:
    x = torch.randn(1, 2, 4, 7, 7)
    out = TruncatingDownsample(mode)(x)
    assert out.shape == (1, 2, 4, 3, 3)
    x[..., 6, :] = x[..., 6] = 100
    assert torch.equal(TruncatingDownsample(mode)(x), out)
    even = torch.randn(1, 2, 4, 6, 8)
    torch.testing.assert_close(TruncatingDownsample(mode)(even), gnn.GroupDownsample2d(mode)(even))


def test_batch_norm_per_orientation_by_hand() -> None:
    norm = BatchNormPerOrientation(3, momentum=0.5, affine=False).double()
    x = torch.randn(5, 3, 4, 2, 2, dtype=torch.float64) * torch.arange(1, 5)[:, None, None] + 7
    mean, variance = x.mean(dim=(0, 3, 4), keepdim=True), x.var(dim=(0, 3, 4), keepdim=True, correction=0)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(norm.running_mean, 0.5 * mean.mean(dim=2).flatten())
    unbiased = x.var(dim=(0, 3, 4)).mean(dim=1)
    torch.testing.assert_close(norm.running_var, 0.5 + 0.5 * unbiased)
    scaled = BatchNormPerOrientation(3).double()
    nn.init.normal_(scaled.weight)
    nn.init.normal_(scaled.bias)
    scale, shift = (parameter[:, None, None, None] for parameter in (scaled.weight, scaled.bias))
    torch.testing.assert_close(scaled(x), scale * (x - mean) / (variance + 1e-5).sqrt() + shift)
    shared = gnn.GroupBatchNorm2d(3, affine=False).double().eval()
    shared.load_state_dict(norm.state_dict())
    assert torch.equal(norm.eval()(x), shared(x))


def convolution() -> gnn.GroupConv2d:
    return gnn.GroupConv2d(3, 5, 3, group=C4, padding="same", bias=False).double()


def bank_norm(layer: gnn.GroupConv2d) -> float:
    return float(torch.linalg.matrix_norm(gconv.expand_filter(layer.weight, C4).flatten(1), ord=2).detach())


def test_the_projected_filter_has_norm_one_and_the_applied_operator_has_not() -> None:
    """A filter of ones: its bank meets maps that are equal in every orientation, to which it adds |G| times itself.

    As matrices, (C_out, C_in |G| K^2) ones have norm sqrt(C_out C_in |G| K^2), and the bank sqrt(|G|) times that.
    """
    published, correct = convolution(), convolution()
    nn.init.ones_(published.weight)
    nn.init.ones_(correct.weight)
    project_spectrum(published)
    gnn.spectral_norm(correct)
    x = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    published(x), correct(x)
    stored = torch.linalg.matrix_norm(published.weight.flatten(1), ord=2).detach()
    assert float(stored) == pytest.approx(1, abs=1e-6)
    assert bank_norm(correct) == pytest.approx(1, abs=1e-6)
    assert bank_norm(published) == pytest.approx(2, abs=1e-6)


def test_no_gradient_passes_through_the_published_norm() -> None:
    """A function of W / sigma(W) alone is constant along W, so <gradient, W> = 0; the published gradient is not."""
    x = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)

    def slope(layer: nn.Module) -> float:
        for _ in range(200):
            layer(x)  # the power iterations converge
        layer(x).square().sum().backward()
        original = layer.parametrizations.weight.original
        return float((original.grad * original).sum().detach() / (original.grad.norm() * original.norm()).detach())

    assert abs(slope(gnn.spectral_norm(convolution()))) < 1e-8
    assert abs(slope(project_spectrum(convolution()))) > 0.1


def test_projection_changes_the_weight_in_training_alone() -> None:
    layer = project_spectrum(convolution())
    x = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    original = layer.parametrizations.weight.original
    before = original.detach().clone()
    layer.eval()(x)
    assert torch.equal(original, before)
    layer.train()(x)
    assert not torch.equal(original, before)
