"""How a fit can end: each status carries the sentence that explains it."""

import enum


class FitWarning(UserWarning):
    """A fit ended in a way that its user should know of; the text is the result's `message`."""


class Status(enum.Enum):
    """How a fit ended.

    Attributes:
        ok: Whether the fit did what was asked of it.
        sentence: What the status means.
        hint: What to try; empty where there is nothing to do.
    """

    COMPLETED = ("completed", True, "All steps were taken.", "")
    CONVERGED = ("converged", True, "The optimizer found nothing left to improve.", "")
    STEP_LIMIT = (
        "step_limit",
        False,
        "All steps were taken before the optimizer converged.",
        "Allow more steps, or start closer.",
    )
    DIVERGED = (
        "diverged",
        False,
        "The loss grew instead of falling.",
        "Try a smaller learning rate, clip_norm, or x and y scaled to about 1.",
    )
    NON_FINITE = (
        "non_finite",
        False,
        "The loss or its gradient was not finite.",
        "Look for a logarithm, root, quotient or power that leaves its domain in the model or the loss; jnp.where does "
        "not keep one out of the gradient, which runs through both of its branches.",
    )
    STOPPED = ("stopped", True, "A callback asked for the end.", "")
    INTERRUPTED = (
        "interrupted",
        False,
        "The user asked for the end, by Ctrl-C or SIGTERM.",
        "With a jaxfit.callbacks.Checkpoint, the same call goes on from here.",
    )
    DATA_FAILED = (
        "data_failed",
        False,
        "A batch could not be had, or was not like those before.",
        "The steps before it count; mend the data and start again.",
    )
    DATA_ENDED = (
        "data_ended",
        False,
        "The batches ended before all steps were taken.",
        "Give a list or another iterable that can be started anew, or fewer steps.",
    )

    ok: bool
    sentence: str
    hint: str

    def __new__(cls, value: str, ok: bool, sentence: str, hint: str):
        """A member whose value is its name alone."""
        member = object.__new__(cls)
        member._value_ = value
        member.ok, member.sentence, member.hint = ok, sentence, hint
        return member

    def __repr__(self):
        return f"Status.{self.name}"

    def __str__(self):
        return self.value
