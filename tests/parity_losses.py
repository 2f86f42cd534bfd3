"""Losses against torch.nn.functional: inputs by NumPy, values and gradients by torch, all in float64."""

import dataclasses
import math
import warnings
import zlib

import numpy as np

REDUCTIONS = ("mean", "sum", "none")
WHOLE_NAMES = ("kl_div", "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits")
INF = np.inf


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    loss: str
    arrays: dict  # arguments in order, by jaxfit's names
    options: dict
    differentiate: tuple  # names of arrays


def cotangent(shape):
    """What the values are multiplied by before their sum is differentiated, so that no two elements look alike."""
    return np.linspace(0.5, 1.5, int(np.prod(shape))).reshape(shape)


def manhattan(x, y):
    return abs(x - y).sum(-1)


def normal(rng, *shape):
    return rng.normal(size=shape)


def grid(rng, *shape):
    """Multiples of a half: zeros, ties and kinks abound."""
    return rng.integers(-5, 6, size=shape) / 2


def simplex(rng, *shape):
    exponential = np.exp(rng.normal(size=shape))
    return exponential / exponential.sum(1, keepdims=True)


def signs(rng, *shape):
    return rng.choice([-1.0, 1.0], size=shape)


def table():
    """All cases by name."""
    found = {}

    def add(loss, variant, build, options=None, differentiate=("prediction",), reductions=None):
        if reductions is None:  # all once for each loss, and the mean where it is more than the mean
            seen = any(case.loss == loss and case.options["reduction"] == "sum" for case in found.values())
            special = any(word in variant for word in ("weight", "ignore", "smooth", "short", "empty", "joined"))
            reductions = REDUCTIONS if not seen else ("mean", "none") if special and loss != "ctc" else ("none",)
            reductions = ("mean",) if seen and special and loss == "ctc" else reductions
        for reduction in reductions:
            name = f"{loss}-{variant}-{reduction}"
            arrays = build(np.random.default_rng(zlib.crc32(f"{loss}-{variant}".encode())))
            assert name not in found
            found[name] = Case(name, loss, arrays, {**(options or {}), "reduction": reduction}, differentiate)

    _regression(add)
    _likelihood(add)
    _classification(add)
    _binary(add)
    _margin(add)
    _embedding(add)
    _ctc(add)
    return found


def _regression(add):
    both = ("prediction", "target")

    def plain(rng):
        return {"prediction": normal(rng, 3, 4), "target": normal(rng, 3, 4)}

    def kinks(rng):
        return {"prediction": grid(rng, 30), "target": grid(rng, 30)}

    def number(rng):
        return {"prediction": normal(rng), "target": normal(rng)}

    def weighted(rng):
        return {**kinks(rng), "weight": rng.uniform(size=30)}

    def extreme(_):
        return {"prediction": np.array([1e3, -1e3, 0.0, 1e8]), "target": np.array([-1e3, 0.0, 0.0, 1.0])}

    options = {"l1": [{}], "mse": [{}]}
    options["smooth_l1"] = [{"beta": 0.5}, {"beta": 2.0}, {"beta": 0.0}, {}]
    options["huber"] = [{"delta": 0.5}, {"delta": 2.0}, {}]
    for loss, kwargs in options.items():
        add(loss, "plain", plain, differentiate=both)
        add(loss, "number", number, differentiate=both, reductions=("mean",))
        add(loss, "extreme", extreme, differentiate=both, reductions=("none",))
        for option in kwargs:
            tag = "".join(f"-{key}{value}" for key, value in option.items())
            add(loss, f"kinks{tag}", kinks, option, both, ("none",))
            if loss != "smooth_l1":
                add(loss, f"weight{tag}", weighted, option, (*both, "weight"))


def _likelihood(add):
    def counts(rng):
        return {"prediction": rng.uniform(0, 3, size=(4, 3)), "target": rng.integers(0, 5, size=(4, 3)).astype(float)}

    def edges(_):
        return {"prediction": np.array([0.0, 0.0, 0.1, 1e3]), "target": np.array([0.0, 2.0, 1.0, 1.0])}

    for variant, options in {
        "log": {},
        "log-full": {"full": True},
        "count": {"log_input": False},
        "count-full": {"log_input": False, "full": True},
        "count-eps": {"log_input": False, "eps": 0.5},
    }.items():
        add("poisson_nll", variant, counts, options)
    add("poisson_nll", "edges", edges, {"log_input": False, "full": True, "eps": 1e-3}, reductions=("none",))

    for variant, shape in {"same": (4, 3), "last-1": (4, 1), "missing": (4,), "first-1": (1, 3), "number": ()}.items():

        def normals(rng, shape=shape):
            return {
                "prediction": normal(rng, 4, 3),
                "target": normal(rng, 4, 3),
                "var": rng.uniform(0.1, 2, size=shape),
            }

        wanted = ("prediction", "target") + (("var",) if variant != "number" else ())
        add("gaussian_nll", variant, normals, {"full": variant == "missing"}, wanted)

    def small_variance(rng):
        return {"prediction": normal(rng, 4), "target": normal(rng, 4), "var": np.array([0.0, 1e-9, 0.3, 2.0])}

    add("gaussian_nll", "small", small_variance, {}, ("prediction", "target", "var"))
    add("gaussian_nll", "eps", small_variance, {"eps": 0.5, "full": True}, ("prediction", "target", "var"))

    def distributions(rng):
        return {"prediction": np.log(simplex(rng, 4, 3)), "target": simplex(rng, 4, 3)}

    def logs(rng):
        return {"prediction": np.log(simplex(rng, 4, 3)), "target": np.log(simplex(rng, 4, 3))}

    def zeros(_):
        return {"prediction": np.array([[-1.0, -2.0], [-800.0, 0.0]]), "target": np.array([[0.0, 1.0], [1.0, 0.0]])}

    reductions = (*REDUCTIONS, "batchmean")
    add("kl_div", "plain", distributions, {}, ("prediction", "target"), reductions)
    add("kl_div", "log", logs, {"log_target": True}, ("prediction", "target"), reductions)
    add("kl_div", "zeros", zeros, {}, reductions=reductions)
    add(
        "kl_div", "number", lambda _: {"prediction": np.array(-1.0), "target": np.array(0.5)}, reductions=("batchmean",)
    )


def _classification(add):
    def labels(shape, *, ignore=None, weight=False):
        def build(rng):
            logits = normal(rng, *shape)
            where = shape[:1] + shape[2:] if len(shape) > 1 else ()
            target = rng.integers(0, shape[min(1, len(shape) - 1)], size=where)
            if ignore is not None:
                target = np.where(rng.random(where) < 0.4, ignore, target)
                target.flat[0] = 0
            arrays = {"prediction": logits, "target": target}
            return {**arrays, "weight": rng.uniform(0.5, 2, size=shape[min(1, len(shape) - 1)])} if weight else arrays

        return build

    for loss in ("cross_entropy", "nll"):
        add(loss, "plain", labels((5, 3)))
        add(loss, "weight", labels((5, 3), weight=True))
        add(loss, "ignored", labels((6, 3), ignore=-100))
        add(loss, "ignore1-weight", labels((6, 3), ignore=1, weight=True), {"ignore_index": 1})
        add(loss, "d1", labels((2, 3, 4), ignore=-100, weight=True))
        add(loss, "d2", labels((2, 3, 2, 2)))
        add(loss, "alone", labels((4,)))
        add(loss, "alone-weight", labels((4,), weight=True))

        def hidden(_):
            return {"prediction": np.zeros((2, 3)), "target": np.array([-100, -100])}

        add(loss, "all-ignored", hidden)

        def impossible(_):
            return {"prediction": np.array([[1.0, -INF, 2.0], [1e3, -1e3, 0.0]]), "target": np.array([0, 1])}

        add(loss, "extreme", impossible)
    add("cross_entropy", "smooth", labels((5, 3)), {"label_smoothing": 0.1})
    add("cross_entropy", "smooth-weight", labels((2, 3, 4), ignore=-100, weight=True), {"label_smoothing": 0.3})
    add("cross_entropy", "smooth-alone", labels((4,), weight=True), {"label_smoothing": 1.0})
    add("cross_entropy", "ties", lambda rng: {"prediction": np.zeros((3, 4)), "target": rng.integers(0, 4, size=3)})

    def soft(shape, *, weight=False):
        def build(rng):
            arrays = {"prediction": normal(rng, *shape), "target": simplex(rng, *shape)}
            return {**arrays, "weight": rng.uniform(0.5, 2, size=shape[1])} if weight else arrays

        return build

    both = ("prediction", "target")
    add("cross_entropy", "soft", soft((5, 3)), {}, both)
    add("cross_entropy", "soft-weight", soft((5, 3), weight=True), {}, both)
    add("cross_entropy", "soft-smooth", soft((2, 3, 4), weight=True), {"label_smoothing": 0.2}, both)

    def soft_alone(rng):
        return {"prediction": normal(rng, 3), "target": np.array([0.0, 0.25, 0.75])}

    add("cross_entropy", "soft-alone", soft_alone, {}, both)


def _binary(add):
    def probabilities(rng, *shape):
        return {"prediction": rng.uniform(size=shape), "target": rng.uniform(size=shape)}

    def logits(rng, *shape):
        return {"prediction": 3 * normal(rng, *shape), "target": rng.uniform(size=shape)}

    for loss, build in (("binary_cross_entropy", probabilities), ("binary_cross_entropy_with_logits", logits)):
        add(loss, "plain", lambda rng, build=build: build(rng, 4, 3), {}, ("prediction", "target"))
        add(loss, "number", lambda rng, build=build: build(rng), reductions=("mean",))
        for shape in ((4, 3), (3,), (4, 1), ()):

            def weighted(rng, build=build, shape=shape):
                return {**build(rng, 4, 3), "weight": rng.uniform(size=shape)}

            add(loss, f"weight-{len(shape)}d-{math.prod(shape)}", weighted, reductions=("mean",))

    def certain(_):
        return {
            "prediction": np.array([0.0, 0.0, 1.0, 1.0, 0.5, 1e-60, 1e-14]),
            "target": np.array([0.0, 1.0, 0.0, 1.0, 0.5, 1.0, 1.0]),
        }

    def far(_):
        return {"prediction": np.array([1e3, -1e3, 1e3, -1e3, 0.0, 0.0]), "target": np.array([0.0, 1, 1, 0, 0, 1])}

    add("binary_cross_entropy", "edges", certain, reductions=("none",))
    add("binary_cross_entropy_with_logits", "extreme", far, {}, ("prediction", "target"))
    for shape in ((3,), (4, 3), (1,)):

        def positive(rng, shape=shape):
            return {**logits(rng, 4, 3), "pos_weight": rng.uniform(0.5, 3, size=shape)}

        add(
            "binary_cross_entropy_with_logits",
            f"pos_weight-{len(shape)}d-{shape[0]}",
            positive,
            {},
            ("prediction", "target"),
        )

    def positive_far(rng):
        return {**far(rng), "weight": rng.uniform(size=6), "pos_weight": np.full(6, 2.5)}

    add("binary_cross_entropy_with_logits", "pos_weight-extreme", positive_far, reductions=("none",))

    loss = "multilabel_soft_margin"
    add(loss, "plain", lambda rng: logits(rng, 4, 3), {}, ("prediction", "target"))
    add(loss, "weight", lambda rng: {**logits(rng, 4, 3), "weight": rng.uniform(size=3)})
    add(loss, "alone", lambda rng: logits(rng, 3))
    add(loss, "deep", lambda rng: logits(rng, 2, 3, 4))
    add(loss, "extreme", far)
    add("soft_margin", "plain", lambda rng: {"prediction": 3 * normal(rng, 4, 3), "target": signs(rng, 4, 3)})
    add(
        "soft_margin",
        "extreme",
        lambda _: {"prediction": np.array([1e3, -1e3, 0.0, 600.0]), "target": np.array([1.0, -1, 1, -1])},
    )


def _margin(add):
    def ranks(rng):
        return {"input1": grid(rng, 20), "input2": grid(rng, 20), "target": signs(rng, 20)}

    def distances(rng):
        return {"prediction": grid(rng, 20), "target": rng.choice([-1.0, 1.0, 0.0], size=20)}

    for margin in (0.0, 0.5):
        add("margin_ranking", f"margin{margin}", ranks, {"margin": margin}, ("input1", "input2", "target"))
    add("hinge_embedding", "plain", distances)
    add("hinge_embedding", "margin2", distances, {"margin": 2.0})

    def scores(rng):
        return {"prediction": grid(rng, 6, 4), "target": rng.integers(0, 4, size=6)}

    for p in (1, 2):
        add("multi_margin", f"p{p}", scores, {"p": p})
        add("multi_margin", f"p{p}-margin", scores, {"p": p, "margin": 0.5})
        add("multi_margin", f"p{p}-weight", lambda rng: {**scores(rng), "weight": rng.uniform(size=4)}, {"p": p})
    add("multi_margin", "alone", lambda rng: {"prediction": grid(rng, 4), "target": np.array(2)})

    def several(rng):
        target = np.array([[0, 2, -1, 1], [3, -1, 0, -1], [-1, 1, 2, 3], [0, 1, 2, 3], [1, 1, -1, 0]])
        return {"prediction": grid(rng, 5, 4), "target": target}

    add("multilabel_margin", "plain", several)
    add("multilabel_margin", "alone", lambda rng: {"prediction": grid(rng, 4), "target": np.array([3, 0, -1, 1])})


def _embedding(add):
    def vectors(rng):
        return {"input1": normal(rng, 6, 3), "input2": normal(rng, 6, 3), "target": signs(rng, 6)}

    def special(_):
        first = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
        second = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
        return {"input1": first, "input2": second, "target": np.array([1.0, -1.0, -1.0, 0.0, 1.0, -1.0])}

    two = ("input1", "input2")
    add("cosine_embedding", "plain", vectors, {}, two)
    add("cosine_embedding", "margin", vectors, {"margin": 0.3}, two)
    add("cosine_embedding", "special", special, {}, two)
    add("cosine_embedding", "zero-alike", lambda rng: {**special(rng), "target": np.ones(6)}, {}, two)

    def alone(rng):
        return {"input1": normal(rng, 3), "input2": normal(rng, 3), "target": np.array(1.0)}

    add("cosine_embedding", "alone", alone, {}, two)

    three = ("anchor", "positive", "negative")

    def triplets(shape):
        return lambda rng: {name: normal(rng, *shape) for name in three}

    def ties(rng):
        arrays = {name: rng.integers(-1, 2, size=(12, 2)).astype(float) for name in three}
        arrays["positive"][:3] = arrays["anchor"][:3]
        arrays["negative"][2:5] = arrays["anchor"][2:5]
        return arrays

    loss = "triplet_margin"
    for p in (0.5, 1.0, 1.5, 2.0, 3.0, INF):
        add(loss, f"p{p}", triplets((5, 3)), {"p": p, "swap": True}, three, ("mean",))
        add(loss, f"ties-p{p}", ties, {"p": p, "eps": 0.0, "swap": p != 2, "margin": 1.0}, three, ("none",))
    add(loss, "plain", triplets((5, 3)), {}, three)
    add(loss, "margin-eps", triplets((5, 3)), {"margin": 0.25, "eps": 0.1}, three)
    add(loss, "alone", triplets((3,)), {}, three)
    add(loss, "deep", triplets((2, 3, 4)), {"swap": True}, three)
    loss = "triplet_margin_with_distance"
    add(loss, "plain", triplets((5, 3)), {}, three)
    add(loss, "swap", triplets((5, 3)), {"swap": True, "margin": 2.0}, three)
    add(loss, "manhattan", triplets((5, 3)), {"distance_function": manhattan, "swap": True}, three)


def _ctc(add):
    """Here log_probs are logits: both sides differentiate through log_softmax."""
    wanted = ("log_probs",)

    def arrays(rng, targets, input_lengths, target_lengths, shape=(8, 3, 5)):
        return {
            "log_probs": normal(rng, *shape),
            "targets": np.array(targets),
            "input_lengths": np.array(input_lengths),
            "target_lengths": np.array(target_lengths),
        }

    padded = [[1, 2, 2, 4], [3, 3, 0, 0], [1, 0, 0, 0]]
    joined = [1, 2, 2, 4, 3, 3, 1]
    add("ctc", "padded", lambda rng: arrays(rng, padded, [8, 8, 8], [4, 2, 1]), {}, wanted)
    add("ctc", "joined", lambda rng: arrays(rng, joined, [8, 6, 3], [4, 2, 1]), {}, wanted)
    add("ctc", "empty", lambda rng: arrays(rng, padded, [8, 1, 3], [3, 0, 1]), {}, wanted)
    add("ctc", "all-empty", lambda rng: arrays(rng, np.zeros((3, 0), int), [8, 5, 3], [0, 0, 0]), {}, wanted)
    add(
        "ctc",
        "blank4",
        lambda rng: arrays(rng, [[1, 2, 2], [3, 3, 0], [1, 0, 0]], [8, 7, 4], [3, 3, 1]),
        {"blank": 4},
        wanted,
    )
    add("ctc", "alone", lambda rng: arrays(rng, [1, 1, 2], 7, 3, (7, 4)), {}, wanted)
    short = [[1, 1], [1, 2], [3, 3]]
    add("ctc", "short", lambda rng: arrays(rng, short, [2, 2, 3], [2, 2, 2], (4, 3, 4)), {}, wanted)
    add(
        "ctc",
        "short-zero",
        lambda rng: arrays(rng, short, [2, 2, 3], [2, 2, 2], (4, 3, 4)),
        {"zero_infinity": True},
        wanted,
    )
    add("ctc", "exact", lambda rng: arrays(rng, [[1, 2, 3]], [3], [3], (3, 1, 4)), {}, wanted, ("none",))

    def forbidden(rng):
        found = arrays(rng, [[1, 2], [1, 1]], [5, 5], [2, 2], (5, 2, 4))
        found["log_probs"][1:4, :, 3] = -1e3
        found["log_probs"][2, 0, 1] = -1e3
        return found

    add("ctc", "extreme", forbidden, {}, wanted)


def by_torch(case):
    """Value and gradients of a case as torch computes them."""
    import torch

    name = case.loss if case.loss in WHOLE_NAMES else f"{case.loss}_loss"
    function = getattr(torch.nn.functional, name)
    tensors = {key: torch.tensor(array) for key, array in case.arrays.items()}
    for key in case.differentiate:
        tensors[key].requires_grad_()
    arguments = {{"prediction": "input"}.get(key, key): tensor for key, tensor in tensors.items()}
    if case.loss == "ctc":
        arguments["log_probs"] = tensors["log_probs"].log_softmax(-1)
    if case.loss == "gaussian_nll" and case.arrays["var"].ndim == 0:
        arguments["var"] = float(case.arrays["var"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what mean means in kl_div
        value = function(**arguments, **case.options)
    (value * torch.tensor(cotangent(value.shape))).sum().backward()
    found = {"value": value.detach().numpy()}
    return found | {f"grad_{key}": tensors[key].grad.numpy() for key in case.differentiate}


def cases():
    return {name: lambda case=case: by_torch(case) for name, case in table().items()}
