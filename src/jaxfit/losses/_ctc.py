"""Connectionist temporal classification: the likelihood of a sequence of labels under all its alignments.

Graves et al., "Connectionist temporal classification: labelling unsegmented sequence data with recurrent neural
networks", 2006. `optax.ctc_loss` stands -1e5 in for log(0), so that an impossible alignment has a large finite loss;
here, as in torch, it is infinite.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.losses import _shared


def ctc(
    log_probs: ArrayLike,
    targets: ArrayLike,
    input_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> jax.Array:
    """Negative log probability that frames spell a sequence, repeated labels merged and blanks dropped.

    The gradient is the derivative in log_probs. torch's adds `exp(log_probs)`, the part that vanishes behind a
    `log_softmax`; behind one, the two agree.

    Args:
        log_probs: Log probabilities of C classes in T frames, e.g. from `jax.nn.log_softmax`, floating-point,
            `[T, N, C]`, or `[T, C]` for one sequence.
        targets: Integer labels, `[N, S]`, of which each row counts up to its target length; or all rows one after the
            other, `[sum(target_lengths)]`; for one sequence `[S]`.
        input_lengths: How many frames count, at most T, integer, `[N]`; `[]` for one sequence.
        target_lengths: How many labels count, integer, `[N]`; `[]` for one sequence.
        blank: The class that stands for no label.
        reduction: `"mean"` (of the losses each divided by its target length, or by 1 where that is 0), `"sum"` or
            `"none"`.
        zero_infinity: Whether a sequence without any alignment (too few frames) has loss 0 and gradient 0, and not
            infinity and NaN.

    Returns:
        A scalar, or with `"none"` an array `[N]` (`[]` for one sequence), in log_probs' dtype. A label or length out
        of range raises; under jit it makes the loss NaN.

    Raises:
        TypeError: log_probs is not floating-point, or labels or lengths are not integer.
        ValueError: Shapes do not fit, log_probs is empty, a label or length is out of range, or reduction is unknown.

    Source: `torch.nn.functional.ctc_loss`; Graves et al., 2006.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> log_probs = jax.nn.log_softmax(jnp.zeros((2, 1, 2)))
        >>> loss = losses.ctc(log_probs, jnp.array([[1]]), jnp.array([2]), jnp.array([1]))
        >>> round(float(jnp.exp(-loss)), 4)  # three of the four paths spell it
        0.75
    """
    (log_probs,), dtype = _shared.floats("ctc", reduction, log_probs=log_probs)
    if log_probs.ndim not in (2, 3):
        raise ValueError(
            f"ctc: log_probs has shape {log_probs.shape}; expected [T, N, C], or [T, C] for one sequence. Add or drop "
            f"an axis, e.g. with log_probs[:, None]."
        )
    alone = log_probs.ndim == 2
    if alone:
        log_probs = log_probs[:, None]
    frames, batch, classes = log_probs.shape
    if not 0 <= (blank := _shared.integer("ctc", "blank", blank)) < classes:
        raise ValueError(f"ctc: blank is {blank}; expected a class from 0 to {classes - 1}.")
    input_lengths = _lengths("input_lengths", input_lengths, batch, alone, frames)
    target_lengths = _lengths("target_lengths", target_lengths, batch, alone, 2**31 - 1)
    labels = _padded(targets, target_lengths, batch, alone, classes)
    values = _losses(log_probs, labels, input_lengths, target_lengths, blank, bool(zero_infinity))
    if reduction == "mean":
        values = values / jnp.maximum(target_lengths, 1)
    return _shared.reduce(values[0] if alone else values, reduction, dtype)


def _lengths(argument, value, batch, alone, most):
    """The lengths, [N]; known ones are checked."""
    array = _shared.numbers("ctc", argument, value)
    came = f"ctc: {argument} is {_checks.describe(array)}"
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{came}; expected integers, e.g. {argument}.astype(int).")
    if array.shape != (batch,) and not (alone and array.shape == ()):
        raise ValueError(f"{came}; expected {'one number' if alone else f'{batch} numbers, one for each sequence'}.")
    values = _shared.known(value, array)
    if values is not None and ((values < 0) | (values > most)).any():
        wrong = values.max() if values.max() > most else values.min()
        raise ValueError(f"ctc: {argument} has the entry {wrong}; expected lengths from 0 to {most}.")
    return array.astype(jnp.int32).reshape(batch)


def _padded(targets, lengths, batch, alone, classes):
    """The labels, [N, S], whether they came so or one sequence after the other."""
    array = _shared.numbers("ctc", "targets", targets)
    if not jnp.issubdtype(array.dtype, jnp.integer) and array.size:
        came = _checks.describe(array)
        raise TypeError(f"ctc: targets is {came}; expected integer class labels, e.g. targets.astype(int).")
    if alone and array.ndim == 1:
        array = array[None]
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] != batch):
        raise ValueError(
            f"ctc: targets has shape {array.shape}; expected ({batch}, S), or one axis with all labels one sequence "
            f"after the other."
        )
    values, counts = _shared.known(targets, array), _shared.known(lengths, lengths)
    if array.ndim == 1:
        if counts is not None and counts.sum() != array.size:
            raise ValueError(
                f"ctc: targets has {array.size} labels; expected {counts.sum()}, the sum of target_lengths. Pad "
                f"the rows to [N, S] or leave the padding out."
            )
        used = np.ones(array.shape, bool)
    else:
        most = array.shape[1]
        if counts is not None and (counts > most).any():
            raise ValueError(f"ctc: target_lengths has the entry {counts.max()}; expected at most {most}, as targets.")
        used = None if counts is None else np.arange(most) < counts[:, None]
    if values is not None and used is not None:
        values = values.reshape(array.shape)
        wrong = used & ((values < 0) | (values >= classes))
        if wrong.any():
            raise ValueError(
                f"ctc: targets has the label {int(values[wrong][0])}; expected labels from 0 to {classes - 1} for "
                f"{classes} classes. Count labels from 0 or give one class more."
            )
    array = array.astype(jnp.int32)
    if array.ndim == 2:
        return array
    longest = array.size if counts is None else int(counts.max())
    if longest == 0:
        return jnp.zeros((batch, 0), jnp.int32)
    first = jnp.cumsum(lengths) - lengths
    return jnp.take(array, first[:, None] + jnp.arange(longest), mode="clip")


@functools.partial(jax.jit, static_argnames="zero_infinity")
def _losses(log_probs, labels, input_lengths, target_lengths, blank, zero_infinity):
    def one(log_probs, labels, frames, length):
        total = _log_likelihood(log_probs, labels, frames, length, blank)
        impossible = total == -jnp.inf
        if zero_infinity:
            loss = jnp.where(impossible, 0, -total)
        else:  # the slope at an infinite loss is NaN in all frames that count, as in torch: 0 would look like a minimum
            counted = (jnp.arange(log_probs.shape[0])[:, None] < frames) & jnp.isfinite(log_probs)
            nothing = 0 * jnp.sum(jnp.where(counted, log_probs, 0))
            loss = -total - jnp.log(jnp.where(impossible, nothing, 1))
        legal = (frames >= 0) & (frames <= log_probs.shape[0]) & (length >= 0) & (length <= labels.size)
        return jnp.where(legal, loss, jnp.nan)

    return jax.vmap(one, in_axes=(1, 0, 0, 0))(log_probs, labels, input_lengths, target_lengths)


def _log_likelihood(log_probs, labels, frames, length, blank):
    """The log probability of one sequence: log_probs [T, C], labels [S], of which `frames` and `length` count."""
    classes = log_probs.shape[1]
    labels = jnp.where(labels < 0, classes, labels)  # a negative index would count from the end
    labels = jnp.where(jnp.arange(labels.size) < length, labels, blank)
    states = jnp.full(2 * labels.size + 1, blank).at[1::2].set(labels)  # blank, label, blank, label, ..., blank
    emissions = jnp.take(log_probs, states, axis=1, mode="fill", fill_value=jnp.nan)
    # A blank may be left out between two labels that differ.
    skip = jnp.pad(states[2:] != states[:-2], (2, 0))[: states.size]

    def behind(alpha, steps):
        return jnp.pad(alpha, (steps, 0), constant_values=-jnp.inf)[: alpha.size]

    def step(alpha, frame):
        t, emission = frame
        ways = jnp.stack([alpha, behind(alpha, 1), jnp.where(skip, behind(alpha, 2), -jnp.inf)])
        return jnp.where(t < frames, _log_sum(ways) + emission, alpha), None

    # Before the first frame every sequence stands on its first blank.
    start = jnp.full(states.size, -jnp.inf, log_probs.dtype).at[0].set(0)
    alpha, _ = jax.lax.scan(step, start, (jnp.arange(log_probs.shape[0]), emissions))
    ends = jnp.stack([alpha[2 * length], jnp.where(length > 0, alpha[2 * length - 1], -jnp.inf)])
    return _log_sum(ends)


def _log_sum(terms):
    """log(sum(exp(terms))) along the first axis, with slope 0 where all terms are minus infinity."""
    top = jax.lax.stop_gradient(jnp.max(terms, axis=0))
    top = jnp.where(jnp.isfinite(top), top, 0)
    total = jnp.sum(jnp.exp(terms - top), axis=0)
    nothing = total == 0
    return jnp.where(nothing, -jnp.inf, jnp.log(jnp.where(nothing, 1, total)) + top)
