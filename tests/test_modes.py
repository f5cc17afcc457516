"""Mode coverage: radii against scipy, counts against laws that miss modes, and the symmetry of a law."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi, f

from sgan.data.toy2d import TOY2D, Mixture2d
from sgan.metrics import component_radius, mode_coverage, rotation_symmetry


@pytest.mark.parametrize("dof", [0.5, 2.0, 7.0, math.inf])
@pytest.mark.parametrize("content", [0.5, 0.95])
def test_the_radius_is_scipys_quantile(dof: float, content: float) -> None:
    """|t| / scale of d-dimensional Student's t: its square over d has the F distribution; of a Gaussian chi."""
    expected = chi(2).ppf(content) if dof == math.inf else math.sqrt(2 * f(2, dof).ppf(content))
    assert component_radius(Mixture2d(((0.0, 0.0),), 0.3, dof), content) == pytest.approx(0.3 * expected)


@pytest.mark.parametrize("name", TOY2D)
def test_a_sample_of_the_law_itself_covers_all_of_it(name: str) -> None:
    law, count = TOY2D[name], 4000
    coverage = mode_coverage(law.sample(count, seed=3), law)
    assert coverage.precision == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / count) + 0.01)
    assert coverage.recall > 0.96
    assert coverage.shares.shape == (len(law.centres),)
    assert float(coverage.shares.sum()) == pytest.approx(coverage.precision)


def test_missing_modes_are_missed() -> None:
    law = TOY2D["toy-c4"]
    one = mode_coverage(Mixture2d(law.centres[:1], law.scale).sample(2000, seed=0), law)
    assert one.recall == 0.25
    assert one.shares[1:].count_nonzero() == 0
    assert one.precision > 0.93
    uneven = mode_coverage(torch.tensor([law.centres[0]] * 3 + [law.centres[2]]), law)
    assert uneven.shares.tolist() == [0.75, 0, 0.25, 0]
    assert uneven.recall == 0.5
    between = mode_coverage(torch.zeros(10, 2), law)
    assert (between.precision, between.recall) == (0, 0)


def test_a_point_counts_within_the_radius_only() -> None:
    law = TOY2D["toy-c4"]
    radius = component_radius(law)
    centre = torch.tensor(law.centres[0], dtype=torch.float64)
    away = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert mode_coverage(centre + 0.999 * radius * away, law).precision == 1
    assert mode_coverage(centre + 1.001 * radius * away, law).precision == 0


def test_the_symmetry_of_the_laws() -> None:
    found = {name: rotation_symmetry(law).name for name, law in TOY2D.items()}
    assert found == {
        "toy-c4": "C4",
        "toy-c8": "C8",
        "toy-c3-chiral": "C3",
        "toy-c4-heavy": "C4",
        "deligan-unimodal": "C8",
        "deligan-bimodal": "C2",
    }
    assert rotation_symmetry(Mixture2d(((1.0, 0.0),), 0.1)).name == "C1"


def test_what_are_no_points_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode_coverage: points must be \(N >= 1, 2\), got \(2, 3\)"):
        mode_coverage(torch.zeros(2, 3), TOY2D["toy-c4"])
