"""Winograd's minimal filtering F(4 x 4, 3 x 3): a tile of 4 x 4 outputs by 36 products instead of 144.

A tile's window of 6 x 6 inputs d and a filter g of 3 x 3 give its outputs as ``A^T [(G g G^T) * (B^T d B)] A``, where
* multiplies element by element (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv
1509.09308, section 4.3). Over many channels and tiles the 36 products become 36 products of matrices.
"""

from fractions import Fraction

TILE = 4
"""Outputs along a side of a tile."""

WINDOW = 6
"""Inputs along a side of a tile's window, which begins one pixel before the tile."""

Matrix = tuple[tuple[int, ...], ...]

INPUT: Matrix = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
"""B^T."""

FILTER = (
    (Fraction(1, 4), Fraction(0), Fraction(0)),
    (Fraction(-1, 6), Fraction(-1, 6), Fraction(-1, 6)),
    (Fraction(-1, 6), Fraction(1, 6), Fraction(-1, 6)),
    (Fraction(1, 24), Fraction(1, 12), Fraction(1, 6)),
    (Fraction(1, 24), Fraction(-1, 12), Fraction(1, 6)),
    (Fraction(0), Fraction(0), Fraction(1)),
)
"""G."""

OUTPUT: Matrix = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
"""A^T."""
