"""Derivatives: of a number, of several arrays, of a chain of functions.

For those who come from PyTorch: no requires_grad, no backward, no .grad that adds up. `jax.grad` takes a function and
gives back the function that computes its gradient.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

PICTURE = Path(__file__).parent / "output" / "derivatives.png"


def shifted_square(x):
    """The function of the first part, and of the picture."""
    return (x + 2) ** 2 + 3


def of_a_number() -> dict[str, Any]:
    """At x = 2 the derivative of (x + 2)^2 + 3 is 2 (2 + 2) = 8; its own derivative is 2."""
    first = jax.grad(shifted_square)
    second = jax.grad(first)  # grad gives an ordinary function, so it can be taken again
    print(f"  (x + 2)^2 + 3 at 2: value {shifted_square(2.0)}, slope {first(2.0)}, curvature {second(2.0)}")
    return {"first": first(2.0), "second": second(2.0)}


def of_two_arrays() -> dict[str, Any]:
    """A sum has the slope 1 in each of its terms."""
    x, y = jax.random.normal(jax.random.key(0), (2, 2, 3))
    by_x, by_y = jax.grad(lambda x, y: jnp.sum(x + y), argnums=(0, 1))(x, y)  # argnums: the arguments to derive by
    print(f"  sum(x + y): by x {by_x.tolist()}, by y {by_y.tolist()}")
    return {"by_x": by_x, "by_y": by_y}


def of_a_layer() -> dict[str, Any]:
    """The mean error of a linear layer, by its input x [10, 20], its weights w [20, 5] and the target y [10, 5]."""

    def mean_error(x, w, y):
        return jnp.mean(y - x @ w)

    x_key, w_key, y_key = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(x_key, (10, 20))
    w = jax.random.normal(w_key, (20, 5))
    y = jax.random.normal(y_key, (10, 5))
    # The value comes out of the same pass as the gradients; a training loop needs both.
    value, gradients = jax.value_and_grad(mean_error, argnums=(0, 1, 2))(x, w, y)
    print(f"  mean(y - x @ w) is {value:.4f}; gradients of shapes {[g.shape for g in gradients]}")
    return {"inputs": (x, w, y), "value": value, "gradients": gradients}


def of_a_chain() -> dict[str, Any]:
    """The chain g(u(x)) = -(x x): the rule that multiplies -1 and 2 x is applied for you."""

    def u(x):
        return x * x

    def g(u):
        return -u

    slope = jax.grad(lambda x: g(u(x)))(1.0)
    print(f"  -(x x) at 1: slope {slope}, and by hand g'(u(1)) u'(1) = {jax.grad(g)(u(1.0)) * jax.grad(u)(1.0)}")
    return {"slope": slope}


def draw() -> None:
    """Draws the function with its tangent at 2, and its derivative everywhere."""
    x = jnp.linspace(-6.0, 4.0, 201)
    # grad is for functions that give one number. vmap runs it for every x at once, without a loop.
    slopes = jax.vmap(jax.grad(shifted_square))(x)
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, shifted_square(x), label="$(x + 2)^2 + 3$")
    near = jnp.array([0.4, 3.6])
    left.plot(near, 19 + 8 * (near - 2), "C1", label="tangent at 2, slope 8")
    left.plot(2, 19, "o", color="C1")
    left.set(xlabel="x", title="A function")
    left.legend()
    right.plot(x, slopes, label="jax.grad")
    right.plot(2, 8, "o", color="C1", label="8 at x = 2")
    right.set(xlabel="x", title="Its derivative")
    right.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)


def main() -> dict[str, Any]:
    """Runs all parts."""
    found = {}
    for part in (of_a_number, of_two_arrays, of_a_layer, of_a_chain):
        print(part.__name__)
        found[part.__name__] = part()
    draw()
    print(f"\nPicture: {PICTURE}")
    return found


if __name__ == "__main__":
    main()
