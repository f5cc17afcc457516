"""Planar point groups: C_n and D_n for n up to 16. C1, C2, C4, D1, D2 and D4 act on the pixel grid exactly.

An element acts on (row, column) offsets by a matrix. C_n: element r rotates counter-clockwise by 2*pi*r/n. D_n: element
f*n + r rotates by r first and then flips the rows if f = 1. On images, C4's element 1 is ``torch.rot90(x, 1)`` and D4's
element 4 is ``torch.flip`` of the rows.

The elements of a group G that map the pixel grid onto itself are a subgroup H, C_gcd(n,4) or D_gcd(n,4). With
m = |G| / |H|, every element of G is h c in one way, h in H and c a rotation by 0..m-1 steps of 2*pi/n. Its number is
h * m + c, where h is numbered as in H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Matrix = tuple[tuple[float, ...], ...]
Cosets = tuple[tuple[int, ...], ...]

_MOST_ROTATIONS = 16


@dataclass(frozen=True)
class Irrep:
    """A real irreducible representation with integer matrices.

    Attributes:
        name: "trivial", "sign" or the like.
        matrices: one d x d orthogonal matrix per group element.
        columns: how many columns of a Fourier coefficient are independent: d for a representation of real type,
            d / 2 for one of complex type (C4's pair of conjugate characters), whose other columns follow.
    """

    name: str
    matrices: tuple[Matrix, ...]
    columns: int

    @property
    def dim(self) -> int:
        return len(self.matrices[0])

    @property
    def multiplications(self) -> int:
        """Real products per tap: a d x d matrix times the columns, or the three of two complex numbers."""
        return 3 if self.columns < self.dim else self.dim**2 * self.columns


class PlanarGroup:
    """A finite group of rotations and reflections of the plane.

    Methods that take elements raise TypeError for anything but an int and ValueError outside 0..order - 1.

    Build one with :class:`CyclicGroup` or :class:`DihedralGroup`. Two groups are equal when their names are.

    Attributes:
        name: "C4", "D8", ...
        order: the number of elements |G|.
        rotations: the number of rotations n.
        flips: whether the group contains reflections.
        lattice: the largest subgroup H that is exact on the pixel grid; an equal group if that is all of G.
        coset_count: m = |G| / |H|; element h * m + c is the lattice's element h after c rotations by 2*pi/n.
        is_lattice: whether m is 1.
    """

    def __init__(self, rotations: int, flips: bool) -> None:
        kind, letter = ("DihedralGroup", "D") if flips else ("CyclicGroup", "C")
        if not isinstance(rotations, int) or isinstance(rotations, bool):
            raise TypeError(f"{kind}: n must be an int, got {type(rotations).__name__}")
        if rotations < 1:
            raise ValueError(f"{kind}: n must be positive, got {rotations}")
        if rotations > _MOST_ROTATIONS:
            raise ValueError(f"{kind}: n must be at most {_MOST_ROTATIONS}, got {rotations}")
        self.rotations = rotations
        self.flips = flips
        self.order = 2 * rotations if flips else rotations
        self.name = f"{letter}{rotations}"
        exact = math.gcd(rotations, 4)
        self.coset_count = rotations // exact
        self.is_lattice = self.coset_count == 1
        self.lattice: PlanarGroup = self if self.is_lattice else PlanarGroup(exact, flips)
        self._irreps = _irreps(self) if self.is_lattice else ()

    def __repr__(self) -> str:
        return f"{'DihedralGroup' if self.flips else 'CyclicGroup'}({self.rotations})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlanarGroup) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def elements(self) -> range:
        """The element indices 0 .. order - 1; 0 is the identity."""
        return range(self.order)

    @property
    def lattice_elements(self) -> range:
        """The elements of the lattice subgroup, those that move the pixel grid onto itself."""
        return range(0, self.order, self.coset_count)

    @property
    def irreps(self) -> tuple[Irrep, ...]:
        """The real irreducible representations of a lattice group; the sum of dim * columns is the order.

        Raises:
            ValueError: not a lattice group; its layers run on the irreps of ``lattice``.
        """
        if not self.is_lattice:
            raise ValueError(
                f"irreps: group must be exact on the pixel grid, as {self.lattice.name} is, got {self.name}"
            )
        return self._irreps

    def _check_element(self, element: int, argument: str = "element") -> None:
        if not isinstance(element, int) or isinstance(element, bool):
            raise TypeError(f"{self.name}: {argument} must be an int, got {type(element).__name__}")
        if not 0 <= element < self.order:
            raise ValueError(f"{self.name}: {argument} must be in 0..{self.order - 1}, got {element}")

    def product(self, a: int, b: int) -> int:
        """The element a * b: act by b first, then by a. From F^m R^r and R F = F R^-1."""
        self._check_element(a, "a")
        self._check_element(b, "b")
        (m_a, r_a), (m_b, r_b) = divmod(a, self.rotations), divmod(b, self.rotations)
        rotation = ((-r_a if m_b else r_a) + r_b) % self.rotations
        return (m_a ^ m_b) * self.rotations + rotation

    def inverse(self, a: int) -> int:
        """The element a^-1: a reflection is its own inverse, a rotation's is the opposite rotation."""
        self._check_element(a, "a")
        return a if a >= self.rotations else (-a) % self.rotations

    def _quarters(self, element: int) -> int:
        """The quarter turns that the element, one of the lattice, rotates by."""
        return element % self.rotations * 4 // self.rotations

    def matrix(self, element: int) -> Matrix:
        """The 2 x 2 matrix by which the element acts on (row, column) offsets; rows point down.

        Its entries are ints for elements of the lattice subgroup.
        """
        self._check_element(element)
        row: tuple[float, float] = (1, 0)
        column: tuple[float, float] = (0, 1)
        if element in self.lattice_elements:
            for _ in range(self._quarters(element)):  # a quarter turn sends (row, column) to (-column, row)
                row, column = (-column[0], -column[1]), row
        else:
            angle = 2 * math.pi * (element % self.rotations) / self.rotations
            row, column = (math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))
        if element >= self.rotations:
            row = (-row[0], -row[1])
        return (row, column)

    def act_offset(self, element: int, offset: tuple[float, float]) -> tuple[float, float]:
        """The (row, column) offset moved by the element."""
        (a, b), (c, d) = self.matrix(element)
        return a * offset[0] + b * offset[1], c * offset[0] + d * offset[1]

    def act_grid(self, x: Tensor, element: int) -> Tensor:
        """Moves the last two axes (H, W) of ``x`` by the element and leaves the others: (L_g f)(p) = f(g^-1 p).

        H and W change places for quarter turns. ValueError for an element that is not in the lattice subgroup.
        """
        self._check_element(element)
        if element not in self.lattice_elements:
            raise ValueError(
                f"{self.name}: element must be one of {list(self.lattice_elements)}, which move the pixel grid onto "
                f"itself, got {element}; to turn an image by other angles, interpolate it"
            )
        if quarters := self._quarters(element):
            x = torch.rot90(x, quarters, (-2, -1))
        return torch.flip(x, (-2,)) if element >= self.rotations else x

    def act(self, x: Tensor, element: int) -> Tensor:
        """The action L_g on an image or on a feature map on the group.

        (L_g f)(p) = f(g^-1 p) for x: (N, C, H, W), and (L_g f)(p, h) = f(g^-1 p, g^-1 h) for x: (N, C, |G|, H, W).

        Args:
            x: (N, C, H, W) or (N, C, |G|, H, W).
            element: index in 0..|G|-1, of the lattice subgroup: other rotations would have to interpolate.

        Returns:
            The moved tensor; H and W change places for quarter turns.

        Raises:
            TypeError: ``x`` is not a tensor or ``element`` is not an int.
            ValueError: wrong rank, group axis or element.
        """
        self._check_element(element)
        if not isinstance(x, Tensor):
            raise TypeError(f"act: x must be a Tensor, got {type(x).__name__}")
        if x.dim() == 4:
            return self.act_grid(x, element)
        if x.dim() == 5 and x.shape[2] == self.order:
            back = self.inverse(element)
            planes = [x.select(2, self.product(back, h)) for h in self.elements]
            return self.act_grid(torch.stack(planes, dim=2), element)
        raise ValueError(
            f"act: x must be (N, C, H, W) or (N, C, {self.order}, H, W) for group {self.name}, got {tuple(x.shape)}"
        )

    def moves_axis(self, axis: int) -> bool:
        """Whether some element of the lattice subgroup flips or rotates axis 0 (rows) or 1 (columns)."""
        identity = ((1, 0), (0, 1))
        return any(self.matrix(g)[axis] != identity[axis] for g in self.lattice_elements)

    def cosets(self, subgroup: Sequence[int]) -> Cosets:
        """The left cosets g * subgroup, ordered by smallest element, each in increasing order.

        Args:
            subgroup: element indices, closed under the product.

        Raises:
            ValueError: not a subgroup.
        """
        for element in subgroup:
            self._check_element(element, "subgroup")
        members = set(subgroup)
        if 0 not in members or any(self.product(a, b) not in members for a in members for b in members):
            raise ValueError(
                f"cosets: subgroup must hold the identity 0 and be closed under the product of {self.name}, "
                f"got {list(subgroup)}"
            )
        return tuple(sorted({tuple(sorted(self.product(g, h) for h in members)) for g in self.elements}))


class CyclicGroup(PlanarGroup):
    """C_n, the rotations by multiples of 2*pi/n; n in 1..16, exact on the pixel grid for 1, 2 and 4."""

    def __init__(self, n: int) -> None:
        super().__init__(n, flips=False)


class DihedralGroup(PlanarGroup):
    """D_n, the rotations of C_n and a flip of the rows; n in 1..16, exact on the pixel grid for 1, 2 and 4."""

    def __init__(self, n: int) -> None:
        super().__init__(n, flips=True)


def _irreps(group: PlanarGroup) -> tuple[Irrep, ...]:
    signs = (1, -1) if group.rotations % 2 == 0 else (1,)
    one_dimensional = [
        Irrep(
            name=f"({'+' if flip > 0 else '-'},{'+' if turn > 0 else '-'})",
            matrices=tuple(
                ((flip ** (g // group.rotations) * turn ** (g % group.rotations),),) for g in group.elements
            ),
            columns=1,
        )
        for flip in ((1, -1) if group.flips else (1,))
        for turn in signs
    ]
    if group.rotations < 4:
        return tuple(one_dimensional)
    plane = Irrep("plane", tuple(group.matrix(g) for g in group.elements), columns=2 if group.flips else 1)
    return (*one_dimensional, plane)


_GROUPS = {
    group.name: group for kind in (CyclicGroup, DihedralGroup) for group in map(kind, range(1, _MOST_ROTATIONS + 1))
}


def group_from_name(name: str) -> PlanarGroup:
    """The group called ``name``: "C1" to "C16" or "D1" to "D16"."""
    if not isinstance(name, str):
        raise TypeError(f"group_from_name: name must be a str, got {type(name).__name__}")
    if name in _GROUPS:
        return _GROUPS[name]
    if name[:1] not in ("C", "D") or not name[1:].isdecimal() or str(int(name[1:])) != name[1:]:
        raise ValueError(f"group_from_name: name must be like 'C4' or 'D2', got {name!r}")
    return (DihedralGroup if name[0] == "D" else CyclicGroup)(int(name[1:]))
