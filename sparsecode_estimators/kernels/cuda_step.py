"""One step of accelerated proximal gradient, elementwise part, in one kernel."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def step_along(
    z, gradient, codes, t, threshold, step, after, ahead, t_after,
    n_components: tl.constexpr, block: tl.constexpr, positive: tl.constexpr,
):  # fmt: skip
    """One row a program: see :func:`sparsecode_estimators.kernels.reference.proximal_step`.

    Parameters
    ----------
    z, gradient, codes, after, ahead : pointers to (n, n_components)
        The last two are written to: codes after the step, and where the next one starts.
    t, t_after : pointers to (n,)
    threshold : pointer to (n_components,)
    step : pointer to one number
    block : int
        Codes looked at together, a power of two.
    """
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, block)
    size = tl.load(step)
    against = tl.zeros((block,), codes.dtype.element_ty)
    for first in range(0, n_components, block):
        inside = first + places < n_components
        here = row * n_components + first + places
        at = tl.load(z + here, mask=inside, other=0.0)
        price = tl.load(threshold + first + places, mask=inside, other=0.0)
        moved = at - size * tl.load(gradient + here, mask=inside, other=0.0)
        if positive:
            new = tl.maximum(moved - price, 0.0)
        else:
            new = moved - tl.minimum(tl.maximum(moved, -price), price)
        against += (at - new) * (new - tl.load(codes + here, mask=inside, other=0.0))
        tl.store(after + here, new, mask=inside)

    restart = tl.sum(against, axis=0) > 0
    old = tl.load(t + row)
    new_t = tl.where(restart, 1.0, (1 + tl.sqrt(1 + 4 * old * old)) / 2)
    momentum = tl.where(restart, 0.0, (old - 1) / new_t)
    tl.store(t_after + row, new_t)
    tl.debug_barrier()  # what is stored above is read below
    for first in range(0, n_components, block):
        inside = first + places < n_components
        here = row * n_components + first + places
        new = tl.load(after + here, mask=inside, other=0.0)
        change = new - tl.load(codes + here, mask=inside, other=0.0)
        tl.store(ahead + here, new + momentum * change, mask=inside)
