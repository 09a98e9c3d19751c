"""What makes up for the rounding of a Gram matrix in bfloat16."""

from __future__ import annotations

from .cpu_jit import part
from .cpu_residual import dot
from .shared import CLASSES

NEARLY = 0.8  # share of the largest gain from which an atom's slope is computed exactly
OFF = 0.1  # share of the best slope that may be rounding: what NEARLY leaves room for


@part
def all_slopes(r, D, slope):
    """Products of a residual with all atoms."""
    for j in range(D.shape[0]):
        slope[j] = dot(r, D, j)


@part
def best_of_near(r, D, field, found):
    """Of the classes' atoms with nearly the largest gain the one that has it, by exact slopes.

    Parameters
    ----------
    r : array
        Residual.
    found : int
        The atom with the largest gain by rounded slopes.

    Returns
    -------
    atom : int
        -1 if so much of its slope was rounding that others may be missing.
    """
    slope, left, none = field.slope, field.left, field.slope.dtype.type(0)
    largest = none
    for place in range(CLASSES):
        largest = max(largest, field.gain[place])
    atom, best, off = found, none, none
    for place in range(CLASSES):
        if field.gain[place] < NEARLY * largest:
            continue
        here = int(field.place[place]) + place
        exact = slope.dtype.type(dot(r, D, here))
        off = max(off, abs(exact - slope[here]))
        size = exact if field.positive else abs(exact)
        gain = size * size / left[here] if size > 0 else none
        slope[here] = exact
        if gain > best:
            best, atom = gain, here
    return -1 if off > OFF * abs(slope[atom]) else atom
