"""What the tests of many fits on a mesh run in processes of their own; prints what it found as JSON."""

import contextlib
import functools
import json
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

import jaxfit as jf
from jaxfit import _drive_many, _together, nn

FITS = 1003
RNG = np.random.default_rng(0)
T = np.linspace(0, 4, 20)
HEIGHTS, RATES = RNG.uniform(1, 3, FITS), RNG.uniform(0.5, 2, FITS)
Y = HEIGHTS[:, None] * np.exp(-RATES[:, None] * T) + 0.01 * RNG.normal(size=(FITS, len(T)))
Y[5] = np.nan
X = RNG.normal(size=(30, 3)).astype(np.float32)
TARGETS = np.tanh(X @ RNG.normal(size=(41, 3, 2))).astype(np.float32)
LENGTHS = RNG.choice([8, 39], 53)
TIMES = [np.linspace(0, 4, length) for length in LENGTHS]
SETS = [rate * np.exp(-rate * t) for t, rate in zip(TIMES, RATES, strict=False)]


def decay(params, t):
    return params["height"] * jnp.exp(-params["rate"] * t)


def network():
    rngs = nn.Rngs(0)
    return nn.Sequential(nn.Linear(3, 8, rngs=rngs), nn.Tanh(), nn.Linear(8, 2, rngs=rngs))


def doubtful(params, t):
    """A model that many starts do not find."""
    return jnp.sin(params["rate"] * t) * params["height"]


START = {"height": 1.0, "rate": 1.0}
BOUNDS = {"height": 0.0, "rate": 0.1}, {"height": 2.5, "rate": 5.0}


@functools.cache
def cases():
    """Fits of all kinds; a network is made only after the processes have met."""
    return {
        "decays": functools.partial(jf.fit_many, decay, (T, Y), START, bounds=BOUNDS),
        "networks": functools.partial(
            jf.fit_many, network(), (X, TARGETS), optimizer=jf.optimizers.Adam(0.01), epochs=10, batch_size=10,
            key=np.arange(41),
        ),
        "lists": functools.partial(jf.fit_many, decay, (TIMES, SETS), START),
        "second tries": functools.partial(
            jf.fit_many, doubtful, (T, np.sin(5 * RATES[:40, None] * T)),
            {"height": 1.0, "rate": np.linspace(0.01, 60, 40)},
        ),
        "rates of learning": functools.partial(
            jf.fit_many, decay, (T, Y[:50]), START, optimizer=jf.optimizers.Adam(np.linspace(0.01, 0.2, 50)), steps=40
        ),
    }  # fmt: skip


def tables(results):
    """All that was found, but the seconds."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(results._found[:-2])]


def compared(one, other):
    """How two results differ: the largest difference of any number, relative to 1 or to it, and whether bits do."""
    pairs = list(zip(tables(one), tables(other), strict=True))
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)
    assert all((np.isfinite(a) == np.isfinite(b)).all() for a, b in pairs)
    far = 0.0
    for a, b in pairs:
        a, b = (np.nan_to_num(np.asarray(leaf, float), posinf=0, neginf=0) for leaf in (a, b))
        far = max(far, float((np.abs(a - b) / np.maximum(np.abs(b), 1)).max(initial=0)))
    return {"far": far, "same": all(a.tobytes() == b.tobytes() for a, b in pairs)}


def save(results, path):
    np.savez(path, *tables(results))


def quietly(call, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jf.FitWarning)
        return call(**options)


@contextlib.contextmanager
def watched():
    """The numbers of the devices that arrays are placed on, and the rows that are read."""
    devices, rows = set(), set()
    placed, dealt = _drive_many._Pass._placed, _drive_many._Pass._dealt

    def place(self, tree):
        found = placed(self, tree)
        for leaf in jax.tree.leaves(found):
            # What stays NumPy goes to the first device.
            devices.update(leaf.devices() if isinstance(leaf, jax.Array) else {jax.local_devices()[0]})
        return found

    def deal(self, at):
        found = dealt(self, at)
        rows.update(float(row[0]) for leaf in found for row in leaf if row.shape == T.shape and np.isfinite(row[0]))
        return found

    _drive_many._Pass._placed, _drive_many._Pass._dealt = place, deal
    seen = {}
    yield seen
    _drive_many._Pass._placed, _drive_many._Pass._dealt = placed, dealt
    seen["devices"], seen["rows"] = sorted(device.id for device in devices), len(rows)


def message(call):
    try:
        quietly(call)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def devices(folder):
    """One process with several devices."""
    every = jax.devices()
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    found = {"devices": len(every)}
    for name, call in cases().items():
        plain = quietly(call)
        found[name] = compared(quietly(call, mesh=mesh), plain)
        save(plain, f"{folder}/{name}.npz")
        if name == "decays":
            found["ended"] = plain.message
    decays, networks = quietly(cases()["decays"]), quietly(cases()["networks"])
    meshes = {
        "explicit": jax.make_mesh((8,), ("fits",), (AxisType.Explicit,)),
        "auto": jax.make_mesh((8,), ("x",), (AxisType.Auto,)),
        "three": Mesh(np.array(every)[[5, 2, 7]], ("fits",)),
        "last": Mesh(np.array(every)[[7]], ("fits",)),
        "first": Mesh(np.array(every)[[0]], ("fits",)),
    }
    for name, some in meshes.items():
        with watched() as seen:
            results = quietly(cases()["decays"], mesh=some)
        found[name] = compared(results, decays) | {"devices": seen["devices"]}
        if name in ("three", "last"):
            found[name]["networks"] = compared(quietly(cases()["networks"], mesh=some), networks)["far"]
    found["report"] = results._work.devices
    found["words"] = quietly(cases()["decays"], mesh=mesh)._work.devices
    results = quietly(cases()["decays"], mesh=mesh, out=f"{folder}/out")
    found["out"] = compared(results, decays)
    found["out"]["files"] = sorted(path.name for path in Path(folder, "out").iterdir())
    save(quietly(jf.fit_many, model=jf.models.exponential, data=(T, Y[:101])), f"{folder}/guessed from a share.npz")
    calls = [functools.partial(cases()["decays"], mesh=some) for some in (8, every, Mesh(np.array([]), ("a",)))]
    found["messages"] = list(map(message, calls))
    return found


def processes(port, rank, folder):
    """One of two processes."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank))
    rank, every = int(rank), np.array(jax.devices())
    folder = Path(folder)
    mesh = Mesh(every.reshape(2, 2), ("data", "model"))
    found = {"devices": len(every)}
    for name, call in cases().items():
        save(quietly(call, mesh=mesh), folder / f"{name} {rank}.npz")
    decays = quietly(cases()["decays"], mesh=mesh)
    _together._AT_ONCE = 4096
    found["in pieces"] = compared(quietly(cases()["decays"], mesh=mesh), decays)
    for name, some in {"three": every[1:], "the last": every[3:]}.items():
        with watched() as seen:
            results = quietly(cases()["decays"], mesh=Mesh(some, ("fits",)))
        found[name] = compared(results, decays) | {"devices": seen["devices"], "rows": seen["rows"]}
    found["words"] = results._work.devices
    found["seconds"] = [results.compile_seconds, results.run_seconds]
    found["one of them"] = float(results[7].params["rate"]) - float(results.params["rate"][7])

    share = Y.copy()  # a process reads no more than its share, but for what a fit is like
    share[range(502, FITS) if rank == 0 else range(10, 502)] = np.nan
    np.save(folder / f"y{rank}.npy", share)
    y = np.load(folder / f"y{rank}.npy", mmap_mode="r")
    kept = functools.partial(jf.fit_many, decay, (T, y), START, bounds=BOUNDS, mesh=mesh, out=folder / "out")
    results = quietly(kept)
    found["out"] = compared(results, decays)
    some = np.lib.format.open_memmap(folder / f"some{rank}.npy", "w+", float, (101, len(T)))
    some[:] = Y[:101]
    some[range(51, 101) if rank == 0 else range(10, 51)] = 1.0
    guessed = quietly(jf.fit_many, model=jf.models.exponential, data=(T, some), mesh=mesh)
    save(guessed, folder / f"guessed from a share {rank}.npz")
    found["out"]["files"] = sorted(path.name for path in (folder / "out").iterdir())
    found["out"]["mapped"] = all(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(results.params))
    again = quietly(cases()["decays"], mesh=Mesh(every[:1], ("a",)), out=folder / "out")
    found["out again"] = compared(again, decays) | {"before": compared(results, decays)["far"]}

    told = functools.partial(cases()["decays"], mesh=mesh, progress=True)
    with contextlib.redirect_stderr(Spy()) as spy:
        quietly(told)
    found["told"] = "fits" in spy.text

    curve = jf.models.exponential
    guess = functools.partial(jf.fit_many, curve, (T, Y[:101]))
    bad = functools.partial(failing, rank)
    calls = [
        functools.partial(jf.fit_many, decay, (T, Y[rank:]), START, mesh=mesh),
        functools.partial(jf.fit_many, decay, (T, Y.astype([np.float32, np.float64][rank])), START, mesh=mesh),
        functools.partial(jf.fit_many, decay, (T, Y), {"height": 1.0, "rate": 1.0 + rank}, mesh=mesh),
        functools.partial(jf.fit_many, decay, (T, Y), START, mesh=Mesh(jax.local_devices(), ("a",))),
        functools.partial(
            jf.fit_many, decay, (T, Y), {"height": 1.0, "rate": np.array([1.0, np.nan])[rank]}, mesh=mesh
        ),
        functools.partial(bad, _drive_many, "run", cases()["decays"], mesh=mesh),
        functools.partial(bad, type(curve), "guess", guess, mesh=mesh),
        functools.partial(jf.fit_many, decay, (T, Y), START, mesh=2),
    ]
    found["messages"] = [message(call) for call in calls]
    found["afterwards"] = compared(quietly(cases()["decays"], mesh=mesh), decays)["far"]
    return found


class Spy:
    """A stream that keeps what is written."""

    text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def failing(rank, owner, name, call, **options):
    """A call during which something of the library's fails in the second process."""
    kept = getattr(owner, name)

    def fails(*_, **__):
        raise OSError("the disk is full")

    if rank:
        setattr(owner, name, fails)
    try:
        return call(**options)
    finally:
        setattr(owner, name, kept)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = {"devices": devices, "processes": processes}[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(result))
