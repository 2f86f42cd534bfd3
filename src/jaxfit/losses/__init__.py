"""Losses: pure functions `loss(prediction, target) -> scalar`, with the names, options and values of torch.

Each is the function of `torch.nn.functional` without `_loss` in its name; so are its gradients, also at kinks. All can
be jitted, vmapped and differentiated; NumPy arrays and lists will do as arguments. Arrays that belong together must
agree in shape: nothing is broadcast silently.
"""

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
from jaxfit.losses._regression import huber, l1, mse, smooth_l1

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
