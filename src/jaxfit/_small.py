"""Small vectors and symmetric systems, written so that XLA compiles them fast and vectorises them over many fits.

A vector is an array [p], or `Apart`: p numbers that are arrays of their own. One fit wants the first, which takes few
operations; many side by side want the second, in which every operation is one over the fits, whose numbers lie next to
each other. A symmetric matrix is an array [p, p], or a `Triangle` of numbers apart.
"""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

_WRITTEN_OUT = 6  # beyond that, the program grows faster than LAPACK's call costs


@jax.tree_util.register_pytree_node_class
class Apart:
    """A vector of numbers that are arrays of their own, all scalars in the eyes of one fit.

    Args:
        numbers: The numbers.
    """

    def __init__(self, numbers: Iterable[Any]):
        self.numbers = tuple(numbers)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.numbers)

    @property
    def dtype(self) -> Any:
        """The precision of them all."""
        return self.numbers[0].dtype

    def __getitem__(self, index: int) -> Any:
        return self.numbers[index]

    def but(self, index: int, number: Any) -> "Apart":
        """The same vector with one other number."""
        return Apart((*self.numbers[:index], number, *self.numbers[index + 1 :]))

    def _with(self, combine: Callable, other: Any) -> Any:
        others = other.numbers if isinstance(other, Apart) else [other] * len(self.numbers)
        return type(self)(map(combine, self.numbers, others))

    def __add__(self, other: Any) -> Any:
        return self._with(operator.add, other)

    def __sub__(self, other: Any) -> Any:
        return self._with(operator.sub, other)

    def __mul__(self, other: Any) -> Any:
        return self._with(operator.mul, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._with(operator.truediv, other)

    def __neg__(self) -> Any:
        return self * -1

    def __matmul__(self, other: "Apart") -> Any:
        return (self * other).sum()

    def __gt__(self, other: Any) -> Any:
        return self._with(operator.gt, other)

    def __lt__(self, other: Any) -> Any:
        return self._with(operator.lt, other)

    def __and__(self, other: Any) -> Any:
        return self._with(operator.and_, other)

    def __or__(self, other: Any) -> Any:
        return self._with(operator.or_, other)

    def __invert__(self) -> Any:
        return type(self)(map(operator.invert, self.numbers))

    def any(self) -> Any:
        """Whether one of the numbers, bools, is True."""
        return functools.reduce(operator.or_, self.numbers)

    def sum(self) -> Any:
        """Their sum."""
        return _sum(self.numbers)

    def tree_flatten(self):
        """Every number is a leaf."""
        return self.numbers, None

    @classmethod
    def tree_unflatten(cls, structure, leaves):
        """From whatever JAX puts in the place of numbers."""
        del structure
        return cls(leaves)


@jax.tree_util.register_pytree_node_class
class Triangle(Apart):
    """A symmetric matrix [p, p] of numbers apart: the rows of its lower triangle, one after the other."""

    def at(self, i: int, j: int) -> Any:
        """An entry."""
        row, column = max(i, j), min(i, j)
        return self.numbers[row * (row + 1) // 2 + column]

    def places(self) -> list[tuple[int, int]]:
        """Row and column of each number."""
        return triangle(next(p for p in range(1, len(self.numbers) + 1) if p * (p + 1) // 2 == len(self.numbers)))


def triangle(size: int) -> list[tuple[int, int]]:
    """Row and column of each number of a `Triangle` of so many rows."""
    return [(i, j) for i in range(size) for j in range(i + 1)]


def _sum(numbers: Iterable[Any]) -> Any:
    return functools.reduce(operator.add, numbers)


def is_few(size: int) -> bool:
    """Whether systems of so many unknowns are written out."""
    return size <= _WRITTEN_OUT


def vector(params: Any) -> tuple[Any, Callable]:
    """Params as one vector, and the function that makes their pytree of it."""
    return (params, lambda numbers: numbers) if isinstance(params, Apart) else ravel_pytree(params)


def square(vector: Any, number: float) -> Any:
    """A symmetric matrix for a vector, all of whose entries are this number."""
    if isinstance(vector, Apart):
        return Triangle(jnp.full_like(vector[i], number) for i, _ in triangle(vector.size))
    return jnp.full((vector.size, vector.size), number, vector.dtype)


def length(vector: Any) -> jax.Array:
    """The Euclidean norm of a vector, [p]."""
    return jnp.sqrt(vector @ vector)


def diagonal(matrix: Any) -> Any:
    """The diagonal, [p], of a matrix [p, p]; no gather, which XLA takes long to compile."""
    if isinstance(matrix, Triangle):
        return Apart(number for number, (i, j) in zip(matrix.numbers, matrix.places(), strict=True) if i == j)
    size = matrix.shape[0]
    return jnp.sum(lax.select(np.eye(size, dtype=bool), matrix, jnp.zeros_like(matrix)), axis=1)


def is_finite(matrix: Any) -> jax.Array:
    """Whether a Gauss–Newton curvature is finite: apart, its diagonal tells that of the rest."""
    if isinstance(matrix, Triangle):
        return jnp.isfinite(diagonal(matrix).sum())
    return jnp.isfinite(matrix).all()


def scaled(matrix: Any, unit: Any) -> Any:
    """A matrix [p, p] whose rows and columns are multiplied by a vector [p]."""
    if isinstance(matrix, Triangle):
        pairs = zip(matrix.numbers, matrix.places(), strict=True)
        return Triangle(number * (unit[i] * unit[j]) for number, (i, j) in pairs)
    return matrix * unit[:, None] * unit


def raised(matrix: Any, by: Any) -> Any:
    """A matrix [p, p] with a number, or a vector [p], added to its diagonal."""
    if isinstance(matrix, Triangle):
        pairs = zip(matrix.numbers, matrix.places(), strict=True)
        more = by if isinstance(by, Apart) else [by] * len(matrix.numbers)
        return Triangle(entry + more[i] if i == j else entry for entry, (i, j) in pairs)
    return matrix + by * np.eye(matrix.shape[0], dtype=matrix.dtype)


def among(matrix: Any, chosen: Any, *, other: float = 0, diagonal: bool = False) -> Any:
    """A matrix [p, p] without what stood in the rows and columns that are not chosen.

    Args:
        matrix: The matrix.
        chosen: Which, a bool vector [p].
        other: What stands there then.
        diagonal: Whether the diagonal stays all the same.
    """
    if isinstance(matrix, Triangle):
        pairs = zip(matrix.numbers, matrix.places(), strict=True)
        return Triangle(
            number if diagonal and i == j else jnp.where(chosen[i] & chosen[j], number, other)
            for number, (i, j) in pairs
        )
    kept = chosen[:, None] & chosen
    return jnp.where(kept | np.eye(matrix.shape[0], dtype=bool) if diagonal else kept, matrix, other)


def times(matrix: Any, vector: Any) -> Any:
    """The product of a matrix [p, p] and a vector [p]."""
    if isinstance(matrix, Triangle):
        entries = range(vector.size)
        return Apart(_sum(matrix.at(i, j) * vector[j] for j in entries) for i in entries)
    return matrix @ vector


def dense(matrix: Any) -> jax.Array:
    """A matrix as an array [p, p]."""
    if not isinstance(matrix, Triangle):
        return matrix
    size = matrix.places()[-1][0] + 1
    return jnp.stack([jnp.stack([matrix.at(i, j) for j in range(size)]) for i in range(size)])


def like(matrix: Any, other: Any) -> Any:
    """An array [p, p] in the form that another symmetric matrix has."""
    return Triangle(matrix[i, j] for i, j in other.places()) if isinstance(other, Triangle) else matrix


def once(said: jax.Array, dtype: Any) -> jax.Array:
    """A bool that many numbers apart depend on, so that it is computed once.

    XLA repeats cheap operations wherever their result is used, in sum more work than all else; a root it does not.
    """
    return jnp.sqrt(said.astype(dtype)) > 0


def in_a_row(tree: Any) -> np.ndarray:
    """The numbers of a pytree of arrays as one NumPy vector, in the order of its leaves."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def is_held(here: Any, gradient: Any, lower: Any, upper: Any) -> Any:
    """Which params a bound holds back, a bool [p]: they lie at it and the loss falls beyond it, or have no room.

    Args:
        here: The params, [p], of NumPy or JAX as all others.
        gradient: The gradient of the loss, [p].
        lower: Their least values, [p].
        upper: Their largest values, [p].
    """
    return (lower == upper) | ((here <= lower) & (gradient > 0)) | ((here >= upper) & (gradient < 0))


def gram(rows: Any) -> Any:
    """The products of all rows with each other: [k, k], of [k, m] with m large; of a list of arrays, a `Triangle`.

    XLA's matrix product takes far longer for so few rows than a sum for each pair, which it deals over the cores.
    """
    size = len(rows)
    if size > _WRITTEN_OUT and not isinstance(rows, list):
        return rows @ rows.T
    sums = Triangle(jnp.sum(rows[i] * rows[j]) for i, j in triangle(size))
    return sums if isinstance(rows, list) else dense(sums)


def positive_solver(matrix: Any) -> Callable[[Any], Any]:
    """The function `vector -> solution` of a symmetric positive definite system.

    Args:
        matrix: [p, p]; where it is not positive definite, solutions are NaN.

    Returns:
        A function of a vector [p].

    Source: Cholesky's decomposition; Golub and Van Loan, "Matrix Computations", 4.2.
    """
    apart = isinstance(matrix, Triangle)
    if not apart and matrix.shape[0] > _WRITTEN_OUT:
        factor = jax.scipy.linalg.cho_factor(matrix)
        return lambda vector: jax.scipy.linalg.cho_solve(factor, vector)
    size = matrix.places()[-1][0] + 1 if apart else matrix.shape[0]

    def entry(i: int, j: int) -> Any:
        return matrix.at(i, j) if isinstance(matrix, Triangle) else matrix[i, j]

    lower: list[list[jax.Array]] = []
    inverse: list[jax.Array] = []  # of the diagonal: divisions are dear
    for i in range(size):
        row: list[jax.Array] = []
        for j in range(i):
            row.append(_less(entry(i, j), row, lower[j]) * inverse[j])
        inverse.append(jax.lax.rsqrt(_less(entry(i, i), row, row)))
        lower.append(row)

    def solve(vector: Any) -> Any:
        forward: list[jax.Array] = []
        for i in range(size):
            forward.append(_less(vector[i], lower[i], forward) * inverse[i])
        backward: list[jax.Array] = []  # from the last on
        for i in reversed(range(size)):
            below = [lower[k][i] for k in range(i + 1, size)]
            backward.append(_less(forward[i], below, backward[::-1]) * inverse[i])
        return Apart(reversed(backward)) if apart else jnp.stack(backward[::-1])

    return solve


def _less(number: Any, some: list[Any], others: list[Any]) -> Any:
    """A number less the products of some numbers and others."""
    products = [one * other for one, other in zip(some, others, strict=False)]
    return number - _sum(products) if products else number


def inverse(matrix: Any) -> Any:
    """The inverse of a symmetric positive definite matrix, NaN where it is none."""
    if not isinstance(matrix, Triangle):
        solve, identity = positive_solver(matrix), np.eye(matrix.shape[0], dtype=matrix.dtype)
        return jnp.stack([solve(column) for column in identity]) if is_few(len(identity)) else solve(identity)
    solve, size = positive_solver(matrix), matrix.places()[-1][0] + 1
    columns = [solve(Apart(jnp.full_like(matrix[0], i == j) for i in range(size))) for j in range(size)]
    return Triangle(columns[j][i] for i, j in matrix.places())
