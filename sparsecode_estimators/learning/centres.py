"""Where the middle of rows is: what an offset starts from."""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_ITER, _TOL = 100, 1e-6


def mean(X: Tensor) -> Tensor:
    """The mean of rows, shape (n_features,)."""
    return X.mean(0)


def geometric_median(X: Tensor) -> Tensor:
    r"""The point with the least sum of distances to rows, :math:`\arg\min_m\sum_i\|x_i - m\|`.

    Less than half of the rows cannot carry it away, however long they are. By Weiszfeld's
    iteration, a mean weighted by :math:`1/\|x_i - m\|`, from the mean of the rows on. At a point
    that is a row itself, where that is not defined, the step of Vardi & Zhang (2000), eq. 2.6:
    the row holds the iteration back by its own weight, and keeps it if it is the median.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)

    References
    ----------
    Weiszfeld (1937), "Sur le point pour lequel la somme des distances de n points donnés est
    minimum". Vardi & Zhang (2000), "The multivariate L1-median and associated data depth".
    """
    rows = X.double()
    middle = rows.mean(0)
    for _ in range(_MAX_ITER):
        difference = rows - middle
        distance = difference.norm(dim=1)
        here = distance == 0
        weight = torch.where(here, 0.0, 1 / torch.where(here, 1.0, distance))
        if not weight.any():
            break
        pull = weight @ difference
        length = pull.norm()
        held = (here.sum() / length).clamp(max=1.0) if length > 0 else 1.0
        step = (1 - held) * pull / weight.sum()
        middle = middle + step
        if step.norm() <= _TOL * distance.mean():
            break
    return middle.to(X.dtype)


CENTRES = {"mean": mean, "median": geometric_median}
