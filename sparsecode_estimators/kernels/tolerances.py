"""From where on a number is taken for rounding, by every make alike.

``eps`` is the resolution of the numbers' type.
"""

FLOOR = 10  # a product with a residual that is below so many eps, of the lengths of row and atom
RESOLUTION = 0.5  # what others leave of an atom's squared length, if below eps to this power: they
# explain it, for greedy codes, which have no certificate
INDEPENDENT = 0.7  # the same for the lasso, whose certificate tells whether it went well
LIMIT = 3  # refits for each atom of a row: Lawson & Hanson's limit, which rounding may reach
