"""Toy laws: densities against scipy and quadrature, samples against densities, symmetry of both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, multivariate_normal, multivariate_t

import gconv
from sgan.data.toy2d import TOY2D, Mixture2d, orbit_mixture
from sgan.metrics.symmetry import symmetry_tests
from sgan.projection import point_maps

SYMMETRY = {"toy-c4": "C4", "toy-c8": "C8", "toy-c3-chiral": "C3", "toy-c4-heavy": "C4"}
LEVEL = 0.05 / sum(gconv.group_from_name(name).order - 1 for name in SYMMETRY.values())  # 5 % for all tests together


@pytest.mark.parametrize("law", TOY2D.values(), ids=TOY2D)
def test_the_density_is_scipys(law: Mixture2d) -> None:
    points = 2 * torch.randn(50, 2, dtype=torch.float64)
    if law.dof < math.inf:
        parts = [multivariate_t(centre, law.scale**2 * np.eye(2), df=law.dof) for centre in law.centres]
    else:
        parts = [multivariate_normal(centre, law.scale**2 * np.eye(2)) for centre in law.centres]
    expected = np.logaddexp.reduce([part.logpdf(points) for part in parts]) - math.log(len(parts))
    torch.testing.assert_close(law.log_density(points), torch.from_numpy(expected))


@pytest.mark.parametrize("dof", [0.5, 2.0, math.inf])
def test_samples_have_the_law(dof: float) -> None:
    """Around one centre the squared radius has a known distribution function: 1 - (1 + r^2 / (dof s^2))^(-dof / 2)."""
    law = Mixture2d(((0.3, -1.0),), 0.7, dof)
    points = law.sample(2000, seed=1).to(torch.float64) - torch.tensor([0.3, -1.0])

    def cdf(r2: np.ndarray) -> np.ndarray:
        scaled = r2 / 0.49
        return chi2(2).cdf(scaled) if dof == math.inf else 1 - (1 + scaled / dof) ** (-dof / 2)

    assert kstest(points.square().sum(1).numpy(), cdf).pvalue > 0.01
    angles = torch.atan2(points[:, 1], points[:, 0]) / (2 * math.pi) + 0.5
    assert kstest(angles.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("law", TOY2D.values(), ids=TOY2D)
def test_components_are_equally_likely_and_seeded(law: Mixture2d) -> None:
    points = law.sample(1200, seed=2)
    assert points.shape == (1200, 2)
    assert points.dtype is torch.float32
    assert torch.equal(points, law.sample(1200, seed=2))
    assert not torch.equal(points, law.sample(1200, seed=3))
    share = 1 / len(law.centres)
    near = torch.cdist(points, torch.tensor(law.centres)).argmin(1).bincount(minlength=len(law.centres))
    error = math.sqrt(1200 * share * (1 - share))
    assert (near - 1200 * share).abs().max() <= 4 * error


@pytest.mark.parametrize(("name", "group_name"), SYMMETRY.items())
def test_the_laws_are_symmetric(name: str, group_name: str) -> None:
    law, maps = TOY2D[name], point_maps(gconv.group_from_name(group_name))
    points = torch.randn(50, 2, dtype=torch.float64)
    for move in maps:
        torch.testing.assert_close(law.log_density(move(points)), law.log_density(points))
    results = symmetry_tests(law.sample(600, seed=5), dict(enumerate(maps[1:])), permutations=999)
    assert min(result.p_value for result in results.values()) > LEVEL


def test_the_chiral_law_has_no_mirror_symmetry() -> None:
    points = torch.randn(50, 2, dtype=torch.float64)
    law = TOY2D["toy-c3-chiral"]
    mirror = point_maps(gconv.DihedralGroup(3))[3]
    assert (law.log_density(mirror(points)) - law.log_density(points)).abs().max() > 1


def test_deligans_targets() -> None:
    """400 points N(0, 0.3^2), or 200 around (0.6, 0.6) and 200 around (-0.6, -0.6) of standard deviation 0.15."""
    one = TOY2D["deligan-unimodal"].sample(400, seed=0)
    assert one.std().item() == pytest.approx(0.3, abs=4 * 0.3 / math.sqrt(2 * 800))
    two = TOY2D["deligan-bimodal"].sample(400, seed=0, balanced=True)
    for mode, half in zip((0.6, -0.6), two.split(200), strict=True):
        assert half.mean().item() == pytest.approx(mode, abs=4 * 0.15 / math.sqrt(400))
        assert half.std().item() == pytest.approx(0.15, abs=4 * 0.15 / math.sqrt(800))


def test_orbits() -> None:
    law = orbit_mixture(gconv.DihedralGroup(2), ((1.0, 2.0),), scale=0.1)
    assert {tuple(round(c, 9) for c in centre) for centre in law.centres} == {(1, 2), (-1, -2), (-1, 2), (1, -2)}


def test_refusals() -> None:
    with pytest.raises(ValueError, match="Mixture2d: needs centres"):
        Mixture2d((), 1)
    with pytest.raises(ValueError, match="scale > 0 and dof > 0"):
        Mixture2d(((0, 0),), 1, dof=0)
    with pytest.raises(ValueError, match="sample: count must be a multiple of 2 to be balanced, got 3"):
        TOY2D["deligan-bimodal"].sample(3, seed=0, balanced=True)
