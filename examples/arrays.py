"""Arrays: making them, looking into them, changing them, moving them to a device, timing them.

For those who come from PyTorch: the arrays of JAX are NumPy's with two differences. They never change, so an update
makes a new array; and an operation may return before it is done, so a clock must wait for the result.
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

PICTURE = Path(__file__).parent / "output" / "arrays.png"


def making() -> dict[str, Any]:
    """From lists, tuples and NumPy; of any rank; filled; random."""
    scalar, vector, matrix = jnp.array(3.5), jnp.array([1.0, 2.0, 3.0]), jnp.array(((1, 2), (3, 4), (5, 6)))
    from_numpy = jnp.array(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4))
    for array in (scalar, vector, matrix, from_numpy):
        print(f"  shape {array.shape!s:10} dtype {array.dtype!s:8} ndim {array.ndim}   size {array.size}")
    filled = jnp.ones((2, 3)), jnp.zeros((2, 3), dtype=jnp.int16), jnp.empty((2, 3))
    # Randomness has no hidden global state: a key in, numbers out, and the same key gives the same numbers again.
    normal_key, uniform_key, integer_key = jax.random.split(jax.random.key(0), 3)
    normal = jax.random.normal(normal_key, (2, 3))
    uniform = jax.random.uniform(uniform_key, (2, 3))
    integers = jax.random.randint(integer_key, (2, 3), 0, 10)
    with np.printoptions(precision=3):
        print(f"  normal {normal[0]}   uniform {uniform[0]}   integers {integers[0]}")
    return {"from_numpy": from_numpy, "filled": filled, "normal": normal, "uniform": uniform, "integers": integers}


def dtypes() -> dict[str, Any]:
    """The dtypes, and the switch for 64 bits."""
    narrow = [jnp.ones(2, dtype).dtype.name for dtype in (jnp.bool, jnp.int8, jnp.int16, jnp.int32, jnp.float32)]
    # JAX computes in 32 bits unless told otherwise: even NumPy's float64 comes out as float32.
    off = jnp.array(np.ones(2)).dtype.name
    with jax.enable_x64(True):
        wide = [jnp.ones(2, dtype).dtype.name for dtype in (jnp.int64, jnp.float64)]
        on = jnp.array(np.ones(2)).dtype.name
    print(f"  {', '.join(narrow)}, and with enable_x64: {', '.join(wide)}")
    print(f"  NumPy float64 becomes {off}; with enable_x64 it stays {on}")
    return {"narrow": narrow, "wide": wide, "off": off, "on": on}


def rows() -> dict[str, Any]:
    """Maximum of each row with its index, sum of each row, matrix product."""
    x = jnp.array([[3.0, 9.0, 4.0], [8.0, 1.0, 2.0]])
    largest, where, total = x.max(axis=1), x.argmax(axis=1), x.sum(axis=1)
    print(f"  row maxima {largest} at {where}, row sums {total}")
    product = jnp.ones((3, 5)) @ jnp.ones((5, 4))
    print(f"  [3, 5] @ [5, 4] has shape {product.shape}")
    return {"largest": largest, "where": where, "total": total, "product": product}


def updates() -> dict[str, Any]:
    """Rows, columns, elements, new shapes; and an update, which makes a new array."""
    x = jnp.arange(6.0).reshape(2, 3)
    row, column, element = x[0], x[:, 1], x[1, 2].item()  # item(): a Python number
    added = x.at[0].add(10.0)  # torch: x[0] += 10. Under jit, XLA does it in place where nobody needs the old x.
    replaced = x.at[:, 1].set(-1.0)
    print(f"  row {row}, column {column}, element {element}")
    print(f"  x.at[0].add(10): {added.tolist()}, and x is still {x.tolist()}")
    return {"x": x, "row": row, "column": column, "element": element, "added": added, "replaced": replaced}


def devices() -> dict[str, Any]:
    """Which devices there are, moving to one, and to NumPy and back."""
    print(f"  {jax.default_backend()}: {[str(device) for device in jax.devices()]}")
    device = jax.devices()[0]  # the accelerator if there is one; jax.devices("cpu")[0] is always there
    x = jax.device_put(np.zeros(3, dtype=np.float32), device)  # torch: x.to(device)
    # torch.from_numpy and tensor.numpy() share memory. Here both ways are copies: changing one leaves the other alone.
    # (np.asarray(x) may look at x's own memory, but only to read.)
    there = np.ones(3)
    here = jnp.array(there)
    there[0] = 100.0
    back = np.array(here)
    back[1] = -100.0
    print(f"  x is on {x.devices()}; changed NumPy copies leave {here} as it was")
    return {"device": device, "x": x, "here": here, "back": back, "read_only": not np.asarray(here).flags.writeable}


def waiting() -> dict[str, Any]:
    """A call hands its work over and returns; Python goes on while the device computes."""
    x = jnp.ones((1_000, 1_000))
    (x @ x).block_until_ready()  # the first call compiles, which is not what is timed here
    began = time.perf_counter()
    product = x @ x
    returned = time.perf_counter() - began  # NOT how long the product takes
    product.block_until_ready()
    done = time.perf_counter() - began
    print(f"  a product of matrices: the call returned after {returned * 1e3:.2g} ms, done after {done * 1e3:.2g} ms")
    return {"returned": returned, "done": done}


def sine(side: int) -> dict[str, Any]:
    """The sine of a [side, side] array, by NumPy and by JAX."""
    numbers = np.random.default_rng(0).random((side, side), dtype=np.float32)
    x = jnp.array(numbers)
    jnp.sin(x).block_until_ready()
    began = time.perf_counter()
    by_numpy = np.sin(numbers)
    numpy_seconds = time.perf_counter() - began
    began = time.perf_counter()
    by_jax = jnp.sin(x).block_until_ready()
    jax_seconds = time.perf_counter() - began
    print(f"  of {side:,} x {side:,} numbers: NumPy {numpy_seconds:.2g} s, JAX {jax_seconds:.2g} s")
    difference = float(np.max(np.abs(by_numpy[:100] - np.array(by_jax[:100]))))
    return {"numpy": numpy_seconds, "jax": jax_seconds, "difference": difference}


def draw(side: int, sine_took: dict[str, Any], product_took: dict[str, Any]) -> None:
    """Draws how long each took."""
    figure = Figure(figsize=(9.6, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = left.barh(["NumPy", "JAX"], [sine_took["numpy"], sine_took["jax"]], color=["0.6", "C0"])
    left.bar_label(bars, fmt="%.2g", padding=3)
    left.set(xlabel="time (s)", title=f"Sine of {side:,} x {side:,} numbers")
    times = [product_took["returned"] * 1e3, product_took["done"] * 1e3]
    bars = right.barh(["call returned", "result there"], times, color=["0.8", "C0"])
    right.bar_label(bars, fmt="%.3g", padding=3)
    right.set(xlabel="time (ms)", title="Matrix product, 1,000 x 1,000, by JAX")
    for axes in (left, right):
        axes.margins(x=0.2)
        axes.invert_yaxis()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)


def main(side: int = 10_000) -> dict[str, Any]:
    """Runs all parts; `side` is the number of rows and columns of the array in the timing."""
    found = {}
    for part in (making, dtypes, rows, updates, devices, waiting):
        print(part.__name__)
        found[part.__name__] = part()
    print("sine")
    found["sine"] = sine(side)
    draw(side, found["sine"], found["waiting"])
    print(f"\nPicture: {PICTURE}")
    return found


if __name__ == "__main__":
    main()
