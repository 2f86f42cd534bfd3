"""Losses: pure functions `loss(prediction, target) -> scalar`, with the names, options and values of torch.

Each is the function of `torch.nn.functional` without `_loss` in its name; so are its gradients, also at kinks. All can
be jitted, vmapped and differentiated; NumPy arrays and lists will do as arguments. Arrays that belong together must
agree in shape: nothing is broadcast silently.
"""

from typing import TYPE_CHECKING

from jaxfit._lazy import attach
from jaxfit.losses._regression import huber, l1, mse, smooth_l1

if TYPE_CHECKING:
    from jaxfit.losses._binary import (
        binary_cross_entropy,
        binary_cross_entropy_with_logits,
        multilabel_soft_margin,
        soft_margin,
    )
    from jaxfit.losses._classification import cross_entropy, nll
    from jaxfit.losses._ctc import ctc
    from jaxfit.losses._embedding import cosine_embedding, triplet_margin, triplet_margin_with_distance
    from jaxfit.losses._likelihood import gaussian_nll, kl_div, poisson_nll
    from jaxfit.losses._margin import hinge_embedding, margin_ranking, multi_margin, multilabel_margin

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding",
    "cross_entropy",
    "ctc",
    "gaussian_nll",
    "hinge_embedding",
    "huber",
    "kl_div",
    "l1",
    "margin_ranking",
    "mse",
    "multi_margin",
    "multilabel_margin",
    "multilabel_soft_margin",
    "nll",
    "poisson_nll",
    "smooth_l1",
    "soft_margin",
    "triplet_margin",
    "triplet_margin_with_distance",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "binary_cross_entropy": "_binary",
        "binary_cross_entropy_with_logits": "_binary",
        "cosine_embedding": "_embedding",
        "cross_entropy": "_classification",
        "ctc": "_ctc",
        "gaussian_nll": "_likelihood",
        "hinge_embedding": "_margin",
        "kl_div": "_likelihood",
        "margin_ranking": "_margin",
        "multi_margin": "_margin",
        "multilabel_margin": "_margin",
        "multilabel_soft_margin": "_binary",
        "nll": "_classification",
        "poisson_nll": "_likelihood",
        "soft_margin": "_binary",
        "triplet_margin": "_embedding",
        "triplet_margin_with_distance": "_embedding",
    },
)
