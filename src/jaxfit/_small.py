"""Small vectors and symmetric systems, written so that XLA compiles them fast and vectorises them over many fits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_WRITTEN_OUT = 6  # beyond that, the program grows faster than LAPACK's call costs


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


def length(vector: jax.Array) -> jax.Array:
    """The Euclidean norm of a vector, [p]."""
    return jnp.sqrt(vector @ vector)


def diagonal(matrix: jax.Array) -> jax.Array:
    """The diagonal, [p], of a matrix [p, p]; no gather, which XLA takes long to compile."""
    size = matrix.shape[0]
    return jnp.sum(lax.select(np.eye(size, dtype=bool), matrix, jnp.zeros_like(matrix)), axis=1)


def gram(rows: jax.Array) -> jax.Array:
    """The products of all rows with each other, [k, k], of [k, m] with m large.

    XLA's matrix product takes far longer for so few rows than a sum for each pair, which it deals over the cores.
    """
    size = rows.shape[0]
    if size > _WRITTEN_OUT:
        return rows @ rows.T
    sums = [[jnp.sum(rows[i] * rows[j]) for j in range(i + 1)] for i in range(size)]
    return jnp.stack([jnp.stack([sums[max(i, j)][min(i, j)] for j in range(size)]) for i in range(size)])


def positive_solver(matrix: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The function `vector -> solution` of a symmetric positive definite system.

    Args:
        matrix: [p, p]; where it is not positive definite, solutions are NaN.

    Returns:
        A function of a vector [p].

    Source: Cholesky's decomposition; Golub and Van Loan, "Matrix Computations", 4.2.
    """
    size = matrix.shape[0]
    if size > _WRITTEN_OUT:
        factor = jax.scipy.linalg.cho_factor(matrix)
        return lambda vector: jax.scipy.linalg.cho_solve(factor, vector)
    lower: list[list[jax.Array]] = []
    inverse: list[jax.Array] = []  # of the diagonal: divisions are dear
    for i in range(size):
        row: list[jax.Array] = []
        for j in range(i):
            left = matrix[i, j] - sum((row[k] * lower[j][k] for k in range(j)), jnp.zeros((), matrix.dtype))
            row.append(left * inverse[j])
        square = matrix[i, i] - sum((entry * entry for entry in row), jnp.zeros((), matrix.dtype))
        inverse.append(jax.lax.rsqrt(square))
        lower.append(row)

    def solve(vector: jax.Array) -> jax.Array:
        forward: list[jax.Array] = []
        for i in range(size):
            left = vector[i] - sum((lower[i][k] * forward[k] for k in range(i)), jnp.zeros((), matrix.dtype))
            forward.append(left * inverse[i])
        backward: list[jax.Array] = [jnp.zeros((), matrix.dtype)] * size
        for i in reversed(range(size)):
            left = forward[i] - sum(
                (lower[k][i] * backward[k] for k in range(i + 1, size)), jnp.zeros((), matrix.dtype)
            )
            backward[i] = left * inverse[i]
        return jnp.stack(backward)

    return solve
