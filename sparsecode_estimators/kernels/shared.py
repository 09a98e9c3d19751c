"""What every make agrees on.

``eps`` is the resolution of the numbers' type. From where on a number is taken for rounding must
not depend on the device.
"""

FLOOR = 10  # a product with a residual that is below so many eps, of the lengths of row and atom
RESOLUTION = 0.5  # what others leave of an atom's squared length, if below eps to this power: they
# explain it, for greedy codes, which have no certificate
INDEPENDENT = 0.7  # the same for the lasso, whose certificate tells whether it went well
LIMIT = 3  # refits for each atom of a row: Lawson & Hanson's limit, which rounding may reach

FEW = 64  # most atoms for which all that a row needs stays in registers, or close by
CLASSES = 64  # of atoms, by their number: stages take at most one of each at a time
