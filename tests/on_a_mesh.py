"""What the tests of meshes run in processes of their own; prints what it found as JSON."""

import contextlib
import functools
import json
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxfit as jf
from jaxfit import _compile, _problem, nn
from jaxfit.callbacks import Checkpoint, CSVLog

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1003, 16)).astype(np.float32)
Y = np.tanh(X @ RNG.normal(size=(16, 4))).astype(np.float32)
T = np.linspace(0, 4, 1003)
DECAY = 3 * np.exp(-1.3 * T) + 0.5 + 0.01 * RNG.normal(size=1003)
START = {"height": 1.0, "rate": 1.0, "offset": 0.0}


def network():
    rngs = nn.Rngs(0)
    return nn.Sequential(nn.Linear(16, 32, rngs=rngs), nn.Tanh(), nn.Linear(32, 4, rngs=rngs))


def decay(params, t):
    return params["height"] * jnp.exp(-params["rate"] * t) + params["offset"]


train = functools.partial(
    jf.fit, optimizer=jf.optimizers.SGD(0.1, momentum=0.5), epochs=5, validation=(X[:50], Y[:50]),
    metrics={"error": jf.metrics.mean_absolute_error},
)  # fmt: skip
quick = functools.partial(jf.fit, optimizer=jf.optimizers.SGD(0.1, momentum=0.5), epochs=2)
curve = functools.partial(jf.fit, decay, (T, DECAY), START)


def far(one, other):
    """The largest difference between two pytrees of numbers."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max()) for a, b in pairs)


def compared(one, other):
    return {"losses": far(one.history, other.history), "params": far(one.params, other.params)}


def exactly(one, other):
    errors = far(one.standard_errors, other.standard_errors) if one.data is not None else 0.0
    return {"params": far(one.params, other.params), "steps": abs(one.steps - other.steps), "errors": errors}


def batches(size=100):
    return [(X[at : at + size], Y[at : at + size]) for at in range(0, len(X), size)]


def message(call):
    try:
        call()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        return str(error)
    return "nothing was raised"


def devices():
    """One process with several devices."""
    mesh = jax.make_mesh((8,), ("data",))
    both = jax.make_mesh((2, 4), ("data", "model"))
    auto = jax.make_mesh((8,), ("batch",), (jax.sharding.AxisType.Auto,))
    explicit = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Explicit,))
    found = {"devices": len(jax.devices())}
    plain = train(network(), (X, Y), batch_size=100)
    found["uneven batches"] = compared(train(network(), (X, Y), batch_size=100, mesh=mesh), plain)
    found["report"] = str(train(network(), (X, Y), batch_size=100, mesh=mesh))
    found["explicit axes"] = compared(train(network(), (X, Y), batch_size=100, mesh=explicit), plain)
    found["named otherwise"] = compared(train(network(), (X, Y), batch_size=100, mesh=auto), plain)
    watch = [lambda seen: None]
    found["watched"] = compared(train(network(), (X, Y), batch_size=100, mesh=mesh, callbacks=watch), plain)
    even = train(network(), (X, Y), batch_size=64)
    found["even batches"] = compared(train(network(), (X, Y), batch_size=64, mesh=mesh), even)
    found["all at once"] = compared(train(network(), (X, Y), mesh=mesh), train(network(), (X, Y)))
    found["stream"] = compared(train(network(), batches(), mesh=mesh), train(network(), batches()))

    found["least squares"] = exactly(curve(mesh=mesh), curve())
    found["huber"] = exactly(curve(mesh=mesh, loss=jf.losses.huber), curve(loss=jf.losses.huber))
    weights = np.linspace(0, 1, 1003)
    parts = [(T[at : at + 100], DECAY[at : at + 100]) for at in range(0, 1003, 100)]
    streamed = jf.fit(decay, parts, START, optimizer=jf.optimizers.LevenbergMarquardt(), mesh=mesh)
    found["least squares over a stream"] = exactly(streamed, curve())

    scale = np.linspace(1, 2, 1003)  # a model that knows how many samples there are
    constant = {"model": lambda params, t: decay(params, t) * scale, "data": (T, DECAY * scale), "params": START}
    found["a model of all samples"] = exactly(jf.fit(**constant, mesh=mesh), jf.fit(**constant))
    with_blocks = _problem._BLOCK_BYTES["cpu"]
    _problem._BLOCK_BYTES["cpu"] = 1 << 10  # blocks of a few samples, as of many samples on a large device
    lopsided = {"weights": weights, "sigma": 0.02}
    for name, options in (("in blocks", {}), ("huber in blocks", {"loss": jf.losses.huber}), ("weighted", lopsided)):
        found[name] = exactly(curve(mesh=mesh, **options), curve(**options))
    _problem._BLOCK_BYTES["cpu"] = with_blocks

    _compile._programs.clear()
    jf.fit(network(), (X, Y), optimizer=jf.optimizers.SGD(0.1), epochs=1, batch_size=100, shuffle=False, mesh=mesh)
    (key,) = [key for key in _compile._programs if "whole" in str(key[0][0])]
    text = _compile._programs[key].as_text()
    arguments = _compile._programs[key].input_shardings[0]
    found["all-reduces of a step"] = max(
        part.count(" all-reduce(") + part.count(" all-reduce-start(") for part in text.split("\n\n")
    )
    rows = next(layout for layout in arguments if "data" in str(layout.spec))
    found["shares"] = [list(rows.shard_shape((1008, 16)))] * len(rows.device_set)

    states = []
    sharded = train(
        network(), (X, Y), batch_size=100, mesh=both, shard_params="model",
        callbacks=[lambda seen: states.append(seen.state)],
    )  # fmt: skip
    found["sharded"] = compared(sharded, plain)
    found["share of the kernel"] = list(sharded.params["layers"][0]["kernel"].addressable_shards[0].data.shape)
    momenta = [leaf for leaf in jax.tree.leaves(states[-1].inner) if leaf.shape == (16, 32)]
    found["share of its momentum"] = list(momenta[0].addressable_shards[0].data.shape)

    wide = {"a": RNG.normal(size=(16, 4096)).astype(np.float32), "b": np.zeros((4096, 4), np.float32)}
    most = jax.make_mesh((1, 8), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)

    def two_layers(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    found["bytes on a device"], found["wide"] = [], []
    for options in ({}, {"shard_params": "model"}):
        _compile._programs.clear()
        one = jf.fit(
            two_layers, (X[:8], Y[:8]), wide, optimizer=jf.optimizers.Adam(1e-3), steps=20, mesh=most, **options
        )
        (key,) = [key for key in _compile._programs if "whole" in str(key[0][0])]
        memory = _compile._programs[key].memory_analysis()
        found["bytes on a device"].append(memory.argument_size_in_bytes + memory.temp_size_in_bytes)
        found["wide"].append(one.history["loss"].tolist())

    with tempfile.TemporaryDirectory() as folder:
        short = functools.partial(train, network(), (X, Y), batch_size=100, callbacks=[Checkpoint(folder, every=7)])
        short(epochs=3, mesh=mesh)
        found["resumed on one"] = far(short().params, plain.params)
    with tempfile.TemporaryDirectory() as folder:
        short = functools.partial(train, network(), (X, Y), batch_size=100, callbacks=[Checkpoint(folder, every=7)])
        short(epochs=3)
        found["resumed sharded"] = far(short(mesh=both, shard_params="model").params, plain.params)

    spec = jax.sharding.PartitionSpec
    wrong = {"layers": {0: {"kernel": spec(None, "data"), "bias": None}, 2: {"kernel": None, "bias": None}}}
    three = jax.sharding.Mesh(np.array(jax.devices()[:3]), ("data",))
    calls = [{"mesh": 8}, {"shard_params": "model"}, {"mesh": mesh, "shard_params": "model"}]
    calls += [{"mesh": three, "shard_params": wrong}, {"mesh": mesh, "shard_params": {"a": None}}]
    expected = [
        "mesh is an int (8); expected a mesh",
        "shard_params says how params lie on a mesh: give mesh, too.",
        "shard_params is 'model'; expected an axis of the mesh beside 'data'",
        "devices do not divide its 32 evenly",
        "shard_params is a dict; expected the name of an axis",
    ]
    came = [message(functools.partial(train, network(), (X, Y), **options)) for options in calls]
    found["messages"] = [part if part in text else text for part, text in zip(expected, came, strict=True)]
    return found


def joined(port, rank):
    """Makes this process one of two."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank), heartbeat_timeout_seconds=20)
    return jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))


def part(array, rank, count=2):
    """What one of several processes has of the rows."""
    rows = len(array) // count
    return array[int(rank) * rows : (int(rank) + 1) * rows]


def processes(port, rank):
    """One of two processes."""
    mesh = joined(port, rank)
    folder = Path(tempfile.gettempdir()) / f"jaxfit-mesh-{port}"
    both = jax.make_mesh((2, 2), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)
    found = {"devices": len(jax.devices())}
    plain = train(network(), (X, Y), batch_size=100)  # each on a device of its own
    spread = functools.partial(train, network(), (X, Y), batch_size=100, mesh=mesh)
    found["uneven batches"] = compared(spread(), plain)
    log = folder / "log.csv"
    folder.mkdir(exist_ok=True)
    found["watched"] = compared(spread(callbacks=[CSVLog(log)]), plain)
    jax.experimental.multihost_utils.sync_global_devices("written")
    found["rows of the log"] = len(log.read_text().splitlines()) - 1
    one, other = curve(mesh=mesh), curve()
    found["least squares"] = {"params": far(one.params, other.params), "losses": far(one.history, other.history)}

    for name, options in (("resumed", {}), ("sharded and resumed", {"mesh": both, "shard_params": "model"})):
        whole = spread(**options, callbacks=[Checkpoint(folder / f"{name} whole", every=7)])
        short = functools.partial(spread, **options, callbacks=[Checkpoint(folder / name, every=7)])
        short(epochs=3)
        found[name] = far(short().history, whole.history)

    asked = []

    def ask(seen):
        if rank == "1" and seen.step >= 20 and not asked:
            asked.append(seen.step)
            os.kill(os.getpid(), signal.SIGTERM)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jf.FitWarning)
        ended = spread(epochs=None, steps=5000, callbacks=[ask])
        found["status"], found["ended after"] = str(ended.status), ended.steps
        ended = spread(epochs=None, steps=5000, callbacks=[lambda seen: rank == "1" and seen.step >= 20])
        found["stopped"], found["stopped after"] = str(ended.status), ended.steps
    return found


def parts(port, rank):
    """One of two processes, each of which has a part of the data."""
    mesh = joined(port, rank)
    found, here = {}, int(rank)

    # What from_files deals out is what one process gets.
    stream = functools.partial(jf.data.from_files, (X, Y), batch_size=99, shuffle=True, key=3)
    found["files"] = compared(quick(network(), stream(), mesh=mesh), quick(network(), stream()))
    many = RNG.normal(size=(990, 521)).astype(np.float32)  # so many that the two shares make groups of other lengths
    streams = [jf.data.from_files((many, many[:, :2]), batch_size=99, shuffle=True) for _ in range(2)]
    near = {"w": np.zeros((521, 2), np.float32)}
    linear = functools.partial(jf.fit, lambda params, x: x @ params["w"], params=near, optimizer=jf.optimizers.SGD(0.1))
    found["long rows"] = compared(linear(streams[0], epochs=2, mesh=mesh), linear(streams[1], epochs=2))
    table = functools.partial(jf.data.from_files, (T[:, None], DECAY), batch_size=90)
    second = functools.partial(jf.fit, lambda params, t: decay(params, t[:, 0]), params=START)
    lm = jf.optimizers.LevenbergMarquardt()
    one, other = second(table(), optimizer=lm, mesh=mesh), second(table(), optimizer=lm)
    found["least squares over files"] = {"params": far(one.params, other.params), "losses": 0.0}
    found["least squares over files"]["errors"] = far(one.standard_errors, other.standard_errors)

    # Parts of other iterables are put together: equal ones lie where they are needed, others are exchanged.
    *most, (x, y) = batches()
    last = np.concatenate([x[:2], x[1:3]]), np.concatenate([y[:2], y[1:3]])
    plain = quick(network(), [*most, last])
    for name, cut in (("even parts", [50, 50]), ("uneven parts", [61, 39])):
        ends = np.cumsum(cut)
        mine = slice(ends[here] - cut[here], ends[here])
        own = [(x[mine], y[mine]) for x, y in most] + [(x[here : 2 + here], y[here : 2 + here])]
        found[name] = compared(quick(network(), own, mesh=mesh), plain)

    # Arrays that are global are taken as they are.
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = functools.partial(jax.make_array_from_process_local_data, sharding)
    x, y = (everywhere(part(array[:1000], rank)) for array in (X, Y))
    found["global arrays"] = compared(
        quick(network(), (x, y), batch_size=99, mesh=mesh), quick(network(), (X[:1000], Y[:1000]), batch_size=99)
    )
    t, z = (everywhere(part(array[:1000].astype(np.float32), rank)) for array in (T, DECAY))
    sigma = everywhere(part(np.full(1000, 0.01, np.float32), rank))
    near = {name: np.float32(value) for name, value in START.items()}
    pair = T[:1000].astype(np.float32), DECAY[:1000].astype(np.float32)
    for name, options in (("least squares", {}), ("huber", {"loss": jf.losses.huber})):
        one = jf.fit(decay, (t, z), near, mesh=mesh, sigma=sigma, **options)
        other = jf.fit(decay, pair, near, sigma=np.full(1000, 0.01, np.float32), **options)
        difference = {"params": far(one.params, other.params), "losses": far(one.history, other.history)}
        difference["errors"] = far(one.standard_errors, other.standard_errors)
        found[f"global arrays, {name}"] = difference
    found["report"] = str(one)
    small = _problem._BLOCK_BYTES["cpu"]
    _problem._BLOCK_BYTES["cpu"] = 1 << 10
    one = jf.fit(decay, (t, z), near, mesh=mesh, sigma=sigma)
    found["global arrays in blocks"] = {"params": far(one.params, jf.fit(decay, pair, near).params), "losses": 0.0}
    _problem._BLOCK_BYTES["cpu"] = small
    streamed = [(x[at : at + 96], y[at : at + 96]) for at in range(0, 960, 96)]
    alike = [(X[at : at + 96], Y[at : at + 96]) for at in range(0, 960, 96)]
    found["global batches"] = compared(quick(network(), streamed, mesh=mesh), quick(network(), alike))

    def broken():
        yield from own[: 5 - 2 * here]
        raise OSError("the disk is gone")

    class Short(list):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jf.FitWarning)
        ended = quick(network(), broken(), mesh=mesh)
        found["broken"] = [str(ended.status), ended.steps, ended.message]
        ended = quick(network(), Short(own[: 6 - here]), mesh=mesh)
        found["fewer batches"] = [str(ended.status), ended.steps, ended.message]
    short = np.float32(1 + here)
    bad = np.where(np.arange(99)[:, None] == 60, np.nan, X[:99]).astype(np.float32)
    messages = [
        lambda: quick(network(), (X * short, Y), batch_size=100, mesh=mesh),
        lambda: quick(network(), (X, Y), batch_size=100 - here, mesh=mesh),
        lambda: quick(network(), (X, Y), batch_size=100, mesh=mesh, callbacks=[] if here else [print]),
        lambda: quick(network(), [(bad, Y[:99])] if here else [(X[:99], Y[:99])], mesh=mesh),
        lambda: quick(network(), (X, Y), mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))),
    ]
    found["messages"] = [message(call) for call in messages]

    def failing():
        if here:
            raise OSError("no such disk")
        yield X[:50], Y[:50]

    def crash(seen):
        if here and seen.step > 5:
            raise OSError("no such screen")

    once = functools.partial(quick, network(), (X, Y), batch_size=100, mesh=mesh)
    missing = Path(tempfile.gettempdir()) / f"jaxfit-mesh-{port}-{rank}"
    calls = [
        lambda: quick(network(), failing(), mesh=mesh),
        lambda: quick(network(), [] if here else [(X[:50], Y[:50])], mesh=mesh),
        lambda: once(epochs=None, steps=20 + here),
        lambda: once(callbacks=[crash]),
        lambda: once(callbacks=[lambda seen: jf.optimizers.SGD(0.1 + here, momentum=0.5)]),
        lambda: once(callbacks=[Checkpoint(missing, every=10)]),
    ]
    found["all are told"] = [message(call) for call in calls]
    file = Path(tempfile.gettempdir()) / f"jaxfit-mesh-{port}-file"
    file.write_text("not a folder")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        once(callbacks=[Checkpoint(file / "inside", every=10)])
    found["unwritable"] = sorted({str(one.message) for one in warned})
    mine = jax.sharding.Mesh(np.array(jax.local_devices()), ("data",))  # a fit of this process alone
    found["alone"] = compared(
        quick(network(), (X, Y), batch_size=100, mesh=mine), quick(network(), (X, Y), batch_size=100)
    )
    found["messages"].append(message(lambda: quick(network(), (X, Y), callbacks=[Checkpoint(f"never {rank}")])))
    return found


def files():
    return jf.data.from_files((X, Y), batch_size=100, shuffle=True, key=5)


def long(**options):
    return train(network(), (X, Y), **{"epochs": 60, "batch_size": 100} | options)


def killed(port, rank, folder, victim):
    """One of two processes, of which one is killed in the middle."""
    mesh = joined(port, rank)

    def die(seen):
        if rank == victim and seen.step >= 200 and seen.step % 50:
            os.kill(os.getpid(), signal.SIGKILL)

    long(mesh=mesh, callbacks=[Checkpoint(folder, every=50), die])
    return {}


def begun(folder):
    """One process that begins what two end."""
    quick(network(), files(), epochs=1, callbacks=[Checkpoint(f"{folder}-of-one", every=7)])
    return {}


def restarted(port, rank, folder):
    """One of two processes that go on where the killed ones were, and where one process was."""
    mesh = joined(port, rank)
    kept = max(int(path.name) for path in Path(folder).iterdir() if path.name.isdigit())
    steps = []
    result = long(mesh=mesh, callbacks=[Checkpoint(folder, every=50), lambda seen: steps.append(seen.step)])
    quick(network(), files(), epochs=1, mesh=mesh, callbacks=[Checkpoint(f"{folder}-of-two", every=7)])
    ended = quick(network(), files(), mesh=mesh, callbacks=[Checkpoint(f"{folder}-of-one", every=7)])
    whole = quick(network(), files())
    losses = result.history["loss"].tolist()
    return {"kept": kept, "first step": steps[0], "losses": losses, "files": far(ended.params, whole.params)}


def alone(folder):
    """One process that ends what two have begun; and the whole, never interrupted."""
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    again = long(epochs=62, mesh=mesh, callbacks=[Checkpoint(folder, every=50)])
    ended = quick(network(), files(), mesh=mesh, callbacks=[Checkpoint(f"{folder}-of-two", every=7)])
    longer, whole = long(epochs=62), quick(network(), files())
    return {
        "losses": longer.history["loss"][: 60 * 11].tolist(),
        "gone on": far(again.params, longer.params),
        "files": far(ended.params, whole.params),
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = globals()[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(result))
