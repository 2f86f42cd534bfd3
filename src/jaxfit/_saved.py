"""`save` and `load`: a finished result as one file, which is safe to open and gives back every number bit for bit."""

import warnings
from typing import Any

from jaxfit import _archive, _checks, _code, _model, _modules, _saved_many, _saved_result
from jaxfit._result import FitResult
from jaxfit._results import FitResults
from jaxfit._status import FitWarning
from jaxfit._traced import TracedResult
from jaxfit._tree_json import Reader


def save(result: FitResult | FitResults, path: Any, *, data: bool = True) -> None:
    """Writes a finished result to a file, from which `load` gives it back: every number bit for bit.

    The file is a zip archive: a header in JSON, and arrays in NumPy's own format that `numpy.load` reads too. It holds
    no code and nothing pickled, and so it can be opened safely whoever it comes from. The model is kept by its name
    alone, like the loss and the schedules of the optimizer: curves of `jaxfit.models`, and functions at the top of a
    module that can be imported, are found again by `load`; lambdas, functions of a notebook or a script, and modules
    have to be given to it.

    It is written beside its place and moved there when it is whole, so that a file is never there by half.

    Args:
        result: What `fit` or `fit_many` (`sweep`, `ensemble`, ...) returned.
        path: The file, a str or a `pathlib.Path`; one that is there already is replaced. It gets no suffix that you
            did not write.
        data: Whether the data are written too: x, y, sigma and weights, if they are in memory. Without them all is
            there but what looks at data again: residuals, points in plots, profile intervals, and `results[i]`.

    Raises:
        TypeError: `result` is no such result, or holds what a file cannot, such as params of a class without a name.
        FileNotFoundError: The folder does not exist.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.linspace(0.0, 4.0, 30)
        >>> result = jf.fit(jf.models.exponential, (x, 3 * np.exp(-x / 2)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "decay.jaxfit"
        ...     jf.save(result, path)
        ...     again = jf.load(path)
        >>> again.params == result.params, bool((again.covariance == result.covariance).all())
        (True, True)
        >>> float(again.predict(0.0).round(6))
        3.0
    """
    path = _archive.checked(path)
    if not isinstance(data, bool):
        raise TypeError(f"data is {_checks.describe(data)}; expected True or False.")
    if isinstance(result, FitResults):
        _archive.write(path, "FitResults", _saved_many.content(result, data))
    elif isinstance(result, FitResult):
        _archive.write(path, "FitResult", _saved_result.content(result, data))
    else:
        way_out = ", the result of jaxfit.fit or jaxfit.fit_many"
        if isinstance(result, TracedResult):
            way_out += ": return it from the transformed function, and save its leaves with numpy.savez"
        raise TypeError(f"result is {_checks.describe(result)}; expected a FitResult or FitResults{way_out}.")


def load(path: Any, model: Any = None) -> Any:
    """Reads a result that `save` has written.

    Nothing in a file is run. Where it names a model, a loss or a schedule in a module of yours, that module is imported
    when its function is first asked for, and the function is taken only if its code, and the values and functions of
    your modules that it uses, are what they were. A module with a class of params (a named tuple) is imported at once.

    Args:
        path: The file.
        model: The model that was fitted: the function, or a flax module of the same architecture, whose own params do
            not matter. None for one that is found by its name, or where only numbers are asked for.

    Returns:
        A `FitResult` or a `FitResults`, equal to what was saved. Without its model it raises ValueError for `model`,
        `predict` and all else that takes it. A schedule of an optimizer that is not found is there by its name alone.
        Arrays of 64 bits of JAX are NumPy arrays where JAX is set to 32.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: The model is of the wrong kind.
        ValueError: The file is not one of `save`'s, cut short, damaged, or of a later version; or a module is given
            whose params are others than those saved, which are named.

    Warns:
        FitWarning: The code of the function given as model is not that of the one that was fitted.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.array([0.0, 1.0, 2.0, 3.0])
        >>> line = lambda params, x: params[0] + params[1] * x
        >>> result = jf.fit(line, (x, np.array([1.0, 3.0, 4.0, 8.0])), np.zeros(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "line")
        ...     jf.save(result, path)
        ...     again, able = jf.load(path), jf.load(path, model=line)
        >>> again.standard_errors.round(4).tolist()
        [0.7937, 0.4243]
        >>> again.predict(4.0)
        Traceback (most recent call last):
            ...
        ValueError: the model, <lambda>, is not in the file: a lambda has no name. Give it: ...
        >>> float(able.predict(4.0).round(4))
        9.5
    """
    modules = {"FitResult": _saved_result, "FitResults": _saved_many}

    def build(kind: str, content: Any, reader: Reader) -> Any:
        if kind not in modules:
            raise ValueError(f"{path} holds {kind!r}, which this version of jaxfit does not know.")
        if not isinstance(content, dict) or not content.keys() >= modules[kind].ENTRIES:
            raise ValueError(f"{path} is damaged: entries of its header are missing. Save the result anew.")
        given = None if model is None else checked_model(model, content["model"])
        return modules[kind].built(content, given, reader.widened)

    return _archive.read(_archive.checked(path), build)


def checked_model(model: Any, described: Any) -> Any:
    """The model that a user gave to `load`, of the kind that was saved.

    Raises:
        TypeError: It is of the other kind, or none at all.

    Warns:
        FitWarning: Its code is another.
    """
    model = _modules.unwrapped(model)
    is_network = _model.kind(model) is not None
    if described["kind"] == "network":
        if is_network and _model.kind(model) == described["library"]:
            return model
        library = {"nnx": "an nnx", "linen": "a linen"}[described["library"]]
        raise TypeError(
            f"model is {_checks.describe(model)}; expected {library} module like the one that was fitted:\n"
            f"{described['text']}"
        )
    if is_network:
        raise TypeError(
            f"model is {_checks.describe(model)}, a flax module; the fit was one of a function, {described['shown']}."
        )
    _model.check_callable("model", model, *_model.MODEL)
    _model.check_signature("model", model, *_model.MODEL)
    differs = _code.difference(described.get("code"), model)
    if differs and not differs.startswith("its code cannot be compared"):
        warnings.warn(
            f"The model given is not, to the letter, {described['shown']} as it was fitted: {differs}. Predictions are "
            "those of the one given.",
            FitWarning,
            stacklevel=5,
        )
    return model
