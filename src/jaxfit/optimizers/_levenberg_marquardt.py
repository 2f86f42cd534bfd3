"""Levenberg–Marquardt: second-order steps for least squares and other smooth losses, on Gauss–Newton terms.

Marquardt's scaling by the largest curvatures so far; Nielsen's update of the damping; geodesic acceleration where the
plain rule ends in trouble. The constants were chosen by what they reach on NIST's certified problems and cost on easy
ones.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfit import _checks, _small
from jaxfit._problem import Batch, GaussNewton, Problem
from jaxfit.losses import _curvature
from jaxfit.optimizers._base import Info, Optimizer, State, flag, number
from jaxfit.optimizers._first_order import Number

_BEND = 0.75  # the most that the path may bend in a step: Transtrum and Sethna's alpha
_SHRINK = {False: 0.1, True: 0.2}  # the least share of the damping that a step leaves, without acceleration and with it
_PLAIN_STEPS = 200  # after which the plain rule is known to be in trouble
_ROBUST_DAMPING = 100.0
_GAIN = 1e-6  # the share of the loss that one param alone may still have to gain at a sound end
_COLLAPSED = 1e-10  # the share of its largest curvature under which a param has lost its influence


class Damped(NamedTuple):
    """What is remembered.

    Attributes:
        terms: Loss, gradient and curvature at the params; the loss is infinite before they are known.
        trial: Where the next step looks, [p].
        scale: The largest curvature of each param so far, [p].
        damping: The share of `scale` that is added to the curvature.
        growth: The factor by which a rejected step raises the damping.
        predicted: The decrease of the loss that the terms promise for the trial.
        straight: Whether the trial's path bends little enough to be trusted.
        last: Whether the trial has so little to gain that it ends the fit.
        done: Whether that trial has been seen.
    """

    terms: GaussNewton
    trial: jax.Array
    scale: jax.Array
    damping: jax.Array
    growth: jax.Array
    predicted: jax.Array
    straight: jax.Array
    last: jax.Array
    done: jax.Array


class LevenbergMarquardt(Optimizer):
    """Damped Gauss–Newton steps: the method of choice for curves of few params.

    For full-batch data, and for streams, of which each step sums over one pass; under losses with a known curvature in
    the prediction: `mse` (least squares); `huber` and `smooth_l1` (robust fits, by reweighting);
    `binary_cross_entropy`, `binary_cross_entropy_with_logits`, `cross_entropy`, `gaussian_nll`,
    `multilabel_soft_margin`, `poisson_nll` and `soft_margin` (Fisher scoring). Bounds are held at every step. The data
    are handled in blocks that fit the caches, so memory does not grow with the number of samples times that of the
    params.

    Each step evaluates the model at one trial point; a trial where the loss does not fall, or is not finite, is
    rejected and the next is closer. A fit has converged where what is left to gain is at most `tolerance` times the
    loss, or what is left to go at most `step_tolerance` times the params, in the norm of their curvatures (in float32,
    what that precision can tell where it is more). What is left is the next step times how fast the steps shrink.

    Args:
        tolerance: A share of the loss, at least 0.
        step_tolerance: A share of the params, at least 0.
        initial_damping: In units of the curvature, above 0: large values start carefully.
        acceleration: Whether steps follow the curvature of the model, by its second derivative along the step. None
            lets `fit` decide: it goes without, and once more from the start with it and a damping of 100 where that
            ended badly: not after 200 steps, with a gradient, or where a param has lost all its influence. The better
            of the two ends counts.

    Raises:
        TypeError: A hyperparameter is not a number; in a fit, the loss has no such curvature.
        ValueError: A hyperparameter is out of range.

    Source: Levenberg (1944), Marquardt (1963); Nielsen (1999), "Damping parameter in Marquardt's method"; Transtrum and
    Sethna (2012), "Improvements to the Levenberg-Marquardt algorithm for nonlinear least-squares minimization".

    Example:
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.linspace(0.0, 1.0, 20)
        >>> line = lambda params, x: params[0] * x + params[1]
        >>> result = jf.fit(line, (x, 2 * x + 1), np.zeros(2), optimizer=jf.optimizers.LevenbergMarquardt())
        >>> result.params.round(6).tolist()
        [2.0, 1.0]
    """

    tolerance: Number = number(default=1e-14)
    step_tolerance: Number = number(default=1e-12)
    initial_damping: Number = number(default=0.1)
    acceleration: bool | None = flag(default=None, kw_only=True, kinds=(bool, type(None)))

    @property
    def is_second_order(self) -> bool:
        """True: float64 data make a float64 fit."""
        return True

    @property
    def in_blocks(self) -> bool:
        """True: its terms are sums over the samples."""
        return True

    @classmethod
    def serves(cls, loss: Any) -> bool:
        """Whether it can minimise a loss: whether that has a curvature which is known to be nowhere negative."""
        return _curvature.serves(loss)

    def check_loss(self, loss: Any) -> None:
        """Raises TypeError where a loss has no curvature that it knows."""
        if not self.serves(loss):
            function, _ = _checks.unwrapped(loss)
            name = getattr(function, "__name__", type(function).__name__)
            raise TypeError(
                f"LevenbergMarquardt needs a loss whose curvature it knows ({', '.join(_curvature.NAMES)}); loss is "
                f"{name}. LBFGS and the first-order optimizers take any."
            )

    @property
    def needs_full_batch(self) -> bool:
        """True: a step is judged by the loss of the step before."""
        return True

    def check_streamed(self) -> None:
        """Raises ValueError where a step would take more than one pass over data that come as a stream."""
        if self.acceleration:
            raise ValueError(
                "LevenbergMarquardt follows the curvature of the model by a second look at all the data in each step, "
                "and a stream is gone through once a step: leave acceleration out, or give the data as arrays (x, y)."
            )

    @property
    def keeps_the_best(self) -> bool:
        """True: a trial that is worse is rejected."""
        return True

    @property
    def first_steps(self) -> int | None:
        """The limit of a first try that may be followed by a second; None where there is but one."""
        return _PLAIN_STEPS if self.acceleration is None else None

    @property
    def default_steps(self) -> int:
        """The model is evaluated at most this often."""
        return 5_000

    def terms(self, state: State) -> GaussNewton:
        """The Gauss–Newton terms at the state's params."""
        return state.inner.terms

    def init(self, problem: Problem, params: Any) -> State:
        """The state before the first step, which only looks at the params themselves."""
        del problem
        flat, _ = _small.vector(params)
        zeros = jax.tree.map(jnp.zeros_like, flat)
        unknown = GaussNewton(jnp.full((), jnp.inf, flat.dtype), zeros, _small.square(flat, 0))
        number = functools.partial(jnp.asarray, dtype=flat.dtype)
        start = number(self.initial_damping)
        true, false = jnp.asarray(True), jnp.asarray(False)
        return State(params, Damped(unknown, flat, zeros, start, number(2), number(0), true, false, false))

    def step(self, problem: Problem, state: State, batch: Batch, key: jax.Array) -> tuple[State, Info]:
        """Looks at the trial, goes there or not, and chooses the next; at the end, only says so."""
        del key
        now: Damped = state.inner

        def stay() -> tuple[State, Info]:
            return state, Info(now.terms.loss, jnp.zeros_like(now.terms.loss), jnp.asarray(True))

        if isinstance(now.trial, _small.Apart):  # many fits side by side: both branches would run, and states be copied
            return self._look(problem, state, batch)
        # A branch, so that the model is not evaluated once more only to hear that all is done.
        return lax.cond(now.done, stay, lambda: self._look(problem, state, batch))

    def _look(self, problem: Problem, state: State, batch: Batch) -> tuple[State, Info]:
        now: Damped = state.inner
        here, unravel = _small.vector(state.params)
        first = now.terms.loss == jnp.inf
        found = problem.gauss_newton(now.trial, unravel, batch)
        gain_ratio = (now.terms.loss - found.loss) / now.predicted
        usable = ~now.done & jnp.isfinite(found.loss) & _small.is_finite(found.curvature)
        # The last step gains less than the loss's rounding, and the params many digits: rounding must not reject it.
        slack = jnp.where(now.last, 64 * jnp.finfo(here.dtype).eps * jnp.abs(now.terms.loss), 0)
        accepted = usable & (first | (now.straight & (found.loss < now.terms.loss + slack)))
        apart = isinstance(here, _small.Apart)
        accepted = _small.once(accepted, here.dtype) if apart else accepted
        flat, terms = jax.tree.map(functools.partial(lax.select, accepted), (now.trial, found), (here, now.terms))
        shrink = jnp.maximum(_SHRINK[bool(self.acceleration)], 1 - (2 * jnp.minimum(gain_ratio, 10.0) - 1) ** 3)
        factor = jnp.where(first, 1, jnp.where(accepted, shrink, now.growth))
        damping = now.damping * factor.astype(here.dtype)
        growth = jnp.where(accepted, jnp.asarray(2, here.dtype), now.growth * 2)
        scale = jax.tree.map(jnp.maximum, now.scale, _small.diagonal(terms.curvature))
        before = jnp.where(accepted & ~first, now.predicted, 0)
        done = now.done | now.last
        after = now._replace(terms=terms, damping=damping, growth=growth, scale=scale, predicted=before, done=done)
        loss, gradient = jax.tree.map(
            functools.partial(lax.select, first),
            (found.loss, found.gradient),
            (now.terms.loss, now.terms.gradient),
        )
        if problem.bounds is not None:
            held = jax.tree.map(_small.is_held, here, gradient, *_flat_bounds(problem))
            gradient = jax.tree.map(_none_where, held, gradient)
        # With a history, the params at the end have a row of their own, which says so; side by side it would cost all.
        info = Info(loss, _small.length(gradient), done if apart else now.done)
        return State(unravel(flat), self._propose(problem, after, flat, unravel, batch)), info

    def _propose(self, problem: Problem, now: Damped, here: jax.Array, unravel: Any, batch: Batch) -> Damped:
        """The next trial, and what its terms promise of it.

        Args:
            problem: What is minimised.
            now: The state, whose `predicted` is that of the step which led here, 0 where none did.
            here: The params, [p].
            unravel: Makes their pytree.
            batch: The data.
        """
        gradient, curvature = now.terms.gradient, now.terms.curvature
        weight = jax.tree.map(lambda scale: jnp.where(scale > 0, scale, 1), now.scale)
        bounds = None if problem.bounds is None else _flat_bounds(problem)
        held = None
        if bounds is not None:
            # What a bound holds back takes no part: its row says that it does not move.
            held = jax.tree.map(_small.is_held, here, gradient, *bounds)
            gradient = jax.tree.map(_none_where, held, gradient)
            curvature = _small.among(curvature, jax.tree.map(jnp.logical_not, held))
        unit = jax.tree.map(lambda weight: 1 / jnp.sqrt(weight), weight)
        damped = _small.raised(_small.scaled(curvature, unit), now.damping)
        solve_scaled = _small.positive_solver(damped)

        def solve(gradient: Any) -> Any:
            return -unit * solve_scaled(unit * gradient)

        def length(step: Any) -> jax.Array:
            return _small.length(step / unit)

        step = solve(gradient)
        predicted = 0.5 * (step @ (now.damping * weight * step - gradient))
        last = self._is_last(now, predicted, length(step), length(here))
        straight = jnp.asarray(True)
        if self.acceleration:
            bending = problem.bending(here, step, unravel, batch)
            bend = 0.5 * solve(bending if held is None else _none_where(held, bending))
            # A path that bends too much leaves the region where the terms hold. Where the second derivative is not
            # finite there is nothing to follow, and nothing to hold against the step.
            straight = ~(2 * length(bend) > _BEND * length(step))
            step = step + jnp.where(straight & jnp.isfinite(length(bend)), bend, 0)
        trial = here + step
        if bounds is not None:
            inverse_unit = jax.tree.map(jnp.sqrt, weight)
            trial = _bounded(here, trial, gradient, _small.scaled(damped, inverse_unit), bounds)
            step = trial - here
            predicted = -(step @ (gradient + 0.5 * _small.times(curvature, step)))
        return now._replace(trial=trial, predicted=predicted, straight=straight, last=last)

    def _is_last(self, now: Damped, predicted: jax.Array, step: jax.Array, params: jax.Array) -> jax.Array:
        """Whether the next step leaves nothing to gain, or nowhere to go.

        Args:
            now: The state, whose `predicted` is that of the step which led here, 0 where none did.
            predicted: What the next step promises.
            step: Its length.
            params: The length of the params.
        """
        smallest = jnp.finfo(predicted.dtype).eps
        loss, gain = jnp.abs(now.terms.loss), jnp.maximum(self.tolerance, 10 * smallest)
        way = jnp.maximum(self.step_tolerance, smallest)
        # Steps that shrink by a factor, one like the other, end at a geometric series' sum: so far is it from the next.
        factor = jnp.where(now.predicted > 0, jnp.sqrt(predicted / jnp.where(now.predicted > 0, now.predicted, 1)), 1)
        rest = jnp.where(factor < 0.5, factor / (1 - jnp.minimum(factor, 0.5)), 1)
        last = (predicted <= gain * loss) | (step <= way * params)
        last |= (predicted <= 1e5 * gain * loss) & (predicted * rest**2 <= 1e-5 * gain * loss)
        return last | ((step <= 1e6 * way * params) & (step * rest <= 0.1 * way * params))

    def doubts(self, state: State, held: Any) -> Any:
        """Whether a param could still gain much alone, or has lost all its influence."""
        if self.acceleration is not None:
            return False
        terms, flat = state.inner.terms, _small.vector(state.params)[0]
        diagonal, least = _small.diagonal(terms.curvature), self.tolerance
        return ends_badly(terms.loss, terms.gradient, diagonal, state.inner.scale, flat, held, least)

    def second_try(self, state: State, converged: bool, held: np.ndarray | None) -> "LevenbergMarquardt | None":
        """The rule to go by from the start where this one ended badly; None where the end is sound.

        Args:
            state: The state at the end.
            converged: Whether it converged there.
            held: Which params a bound holds back, a bool [p]; None for none.
        """
        if self.acceleration is not None:
            return None
        loss, gradient, curvature, scale = map(np.asarray, (*state.inner.terms, state.inner.scale))
        flat = _small.in_a_row(state.params)
        if converged and not ends_badly(loss, gradient, curvature.diagonal(), scale, flat, held, self.tolerance):
            return None
        return self.robust()

    def robust(self) -> "LevenbergMarquardt":
        """The rule that goes carefully, and follows the curvature of the model."""
        return dataclasses.replace(self, initial_damping=_ROBUST_DAMPING, acceleration=True)


def ends_badly(loss: Any, gradient: Any, diagonal: Any, scale: Any, params: Any, held: Any, least: Any = 0.0) -> Any:
    """Whether a param could still gain at a fit's end, or has lost the influence that it had.

    Args:
        loss: The loss; this and all others of NumPy or JAX, and vectors apart too.
        gradient: Its gradient, [p].
        diagonal: The diagonal of its curvature, [p].
        scale: The largest curvature that each param ever had, [p].
        params: The params, [p].
        held: Which of them a bound holds back, a bool [p]; None for none.
        least: The share of the loss under which nobody cares for a gain.
    """
    rounding = (100 * float(np.finfo(params.dtype).eps)) ** 2 * (params * params @ diagonal) / 2
    gain = gradient * gradient  # what each could gain alone is g^2 / 2d
    gains = (gain > 2 * _GAIN * abs(loss) * diagonal) & (gain > 2 * rounding * diagonal)
    gains = gains & (gain > 2 * least * abs(loss) * diagonal)
    if held is not None:
        gains = gains & ~held
    return (gains | (diagonal < _COLLAPSED * scale)).any()


def _flat_bounds(problem: Problem) -> tuple[Any, Any]:
    assert problem.bounds is not None
    lower, upper = (_small.vector(bound)[0] for bound in problem.bounds)
    return lower, upper


def _none_where(held: jax.Array, numbers: jax.Array) -> jax.Array:
    return jnp.where(held, 0, numbers)


def _bounded(here: Any, trial: Any, gradient: Any, damped: Any, bounds: tuple[Any, Any]) -> Any:
    """The trial within the bounds: what left them stays at them, and the others make the best of that.

    Args:
        here: The params now, [p].
        trial: Where an unbounded step would lead, [p].
        gradient: The gradient, [p], 0 for params that are held.
        damped: The damped curvature, [p, p], diagonal for params that are held.
        bounds: The least and the largest params, [p] each.
    """
    inside = jax.tree.map(jnp.clip, trial, *bounds)
    free = jax.tree.map(jnp.equal, inside, trial)
    fixed = jax.tree.map(lambda free, inside, here: jnp.where(free, 0, inside - here), free, inside, here)
    away = -gradient - _small.times(damped, fixed)
    solve = _small.positive_solver(_small.among(damped, free, diagonal=True))
    rest = here + solve(jax.tree.map(lambda free, away: jnp.where(free, away, 0), free, away))
    best = jax.tree.map(jnp.clip, jax.tree.map(jnp.where, free, rest, inside), *bounds)
    return jax.tree.map(functools.partial(jnp.where, (~free).any()), best, trial)
