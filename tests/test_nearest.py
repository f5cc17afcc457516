"""Nearest training images against scipy's k-d tree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.spatial
import torch
from torch import Tensor

from gconv import DihedralGroup
from sgan.metrics import image_actions, nearest_images


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_agree_with_a_tree(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgan.metrics.nearest.CHUNK", 7)
    samples, training = normal(20, 1, 4, 4), normal(50, 1, 4, 4, seed=1)
    tree = scipy.spatial.cKDTree(training.flatten(1).numpy())
    distances, indices = tree.query(samples.flatten(1).numpy(), k=np.arange(1, k + 1))
    got = nearest_images(samples, training, k=k)
    assert np.array_equal(got.indices.numpy(), indices)
    np.testing.assert_allclose(got.distances.numpy(), distances, rtol=1e-12)


def test_a_copy_is_found_and_the_first_of_equals_wins() -> None:
    training = normal(9, 3, 5, 5).float()
    training[6] = training[2]
    got = nearest_images(training[[6, 4]], training, k=2)
    assert got.indices[:, 0].tolist() == [2, 4]
    assert got.indices[0, 1] == 6
    assert got.distances[:, 0].tolist() == [0, 0]


def test_a_turned_copy_is_found_in_the_orbit_only() -> None:
    group = DihedralGroup(4)
    training = normal(30, 1, 6, 6)
    turned = torch.cat([group.act(training[[element]], element) for element in group.elements])
    orbit = image_actions(group).values()
    assert nearest_images(turned, training, orbit=orbit).indices.flatten().tolist() == list(group.elements)
    assert nearest_images(turned, training, orbit=orbit).distances.max() == 0
    assert (nearest_images(turned[1:], training).distances > 1).all()


def test_no_samples_and_bad_arguments() -> None:
    assert nearest_images(torch.zeros(0, 2), torch.zeros(3, 2), k=2).indices.shape == (0, 2)
    with pytest.raises(ValueError, match=r"nearest_images: .* k = 4 .* got \(2, 3\), \(3, 3\)"):
        nearest_images(torch.zeros(2, 3), torch.zeros(3, 3), k=4)
    with pytest.raises(ValueError, match="nearest_images: samples and training must be"):
        nearest_images(torch.zeros(2, 3), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="must be finite"):
        nearest_images(torch.full((2, 3), math.nan), torch.zeros(3, 3))
