"""Winograd transforms from interpolation points, in rational arithmetic. Pure Python; nothing here is typed in.

F(m, r) computes m outputs of an r-tap filter from n = m + r - 1 cells with n multiplications (Toom 1963, Cook 1966,
Winograd 1980; for convolution layers Lavin & Gray 2016):

    y = A^T [(G g) * (B^T d)]

Polynomial multiplication modulo n - 1 finite points and infinity, transposed into a correlation. A row of B^T and the
same row of G belong to one point and may be scaled against each other: here the rows of B^T are monic polynomials, for
B^T is applied far more often than G.

A matrix becomes a *program*: a list of sums in which what several rows share is computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations

#: The finite points, best first: F(m, r) takes the first n - 1. Errors grow with the powers of the points and with
#: their closeness; among short fractions 0, 1, -1, 1/2, -2 are the best five (Barabasz et al. 2020), with 2.6 times
#: smaller errors in F(4, 3) than 0, 1, -1, 2, -2. Seven are 0 and all of +-1, +-2, +-1/2.
POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "1/2", "-2", "-1/2", "2"))

#: The largest transform: all points and infinity.
LARGEST = len(POINTS) + 1

Matrix = tuple[tuple[Fraction, ...], ...]
#: Sums of (coefficient, operand). Operand k < n is input k, n + j is sum j; the last `rows` sums are the results.
Program = tuple[tuple[tuple[Fraction, int], ...], ...]


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest power first."""
    found = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *found], [root * c for c in found] + [Fraction(0)]
        found = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return found


def input_matrix(n: int) -> Matrix:
    """B^T [n x n]: row j is the product of (x - a) over the other points; the last row is that of all of them."""
    points = POINTS[: n - 1]
    rows = [[*_polynomial([*points[:j], *points[j + 1 :]]), Fraction(0)] for j in range(n - 1)]
    return tuple(map(tuple, [*rows, _polynomial(points)]))


def weight_matrix(n: int, r: int) -> Matrix:
    """G [n x r]: values at the points of the polynomial whose coefficients are the taps, over what B^T left out."""
    points, rows = POINTS[: n - 1], []
    for j, a in enumerate(points):
        scale = Fraction(1)
        for b in (*points[:j], *points[j + 1 :]):
            scale *= a - b
        rows.append(tuple(a**k / scale for k in range(r)))
    return (*rows, tuple(Fraction(k == r - 1) for k in range(r)))


def output_matrix(n: int, m: int) -> Matrix:
    """A^T [m x n]: powers of the points, and infinity's highest power only."""
    return tuple((*(a**i for a in POINTS[: n - 1]), Fraction(i == m - 1)) for i in range(m))


# ---- sharing -----------------------------------------------------------------------------------------------------

_Sum = dict[int, Fraction]


def _mirrored(rows: list[_Sum]) -> tuple[int, int] | None:
    """Two rows that differ only in the signs of some terms, as those of the points a and -a do."""
    for p, q in combinations(range(len(rows)), 2):
        a, b = rows[p], rows[q]
        if len(a) > 2 and a.keys() == b.keys() and all(abs(a[k]) == abs(b[k]) for k in a):
            return p, q
    return None


def _with(rows: list[_Sum], pair: tuple[int, int, Fraction], name: int) -> list[_Sum]:
    """The rows, where operand `name` stands for this pair of operands with this ratio of coefficients."""
    i, j, ratio = pair
    changed = []
    for row in rows:
        if i in row and j in row and row[j] / row[i] == ratio:
            row = {k: c for k, c in row.items() if k not in (i, j)} | {name: row[i]}
        changed.append(row)
    return changed


def _share(rows: list[_Sum], n: int) -> tuple[list[_Sum], list[_Sum]]:
    """Sums of pairs that several rows share, and the rows in terms of them: the cheapest next pair until none is left.

    (A beam search over a hundred states finds nothing cheaper for any transform up to the largest.)
    """
    best: tuple[list[_Sum], list[_Sum]] = [], rows
    sums, left = best
    while True:
        counts = Counter((i, j, row[j] / row[i]) for row in left for i, j in combinations(sorted(row), 2))
        pairs = [pair for pair, count in counts.items() if count > 1]
        if not pairs:
            return best
        states = [([*sums, {i: Fraction(1), j: r}], _with(left, (i, j, r), n + len(sums))) for i, j, r in pairs]
        sums, left = min(states, key=lambda state: _cost(*state))
        if _cost(sums, left) < _cost(*best):
            best = sums, left


def _cost(sums: list[_Sum], rows: list[_Sum]) -> int:
    return operations(tuple(_ordered(row) for row in (*sums, *rows)))


@cache
def program(matrix: Matrix) -> Program:
    """The matrix as sums, in an order in which they can be computed.

    Rows of opposite points become a sum and a difference of what they share; then pairs of terms that several rows
    share become sums of their own.
    """
    n, count = len(matrix[0]), len(matrix)
    rows = [{k: c for k, c in enumerate(row) if c} for row in matrix]
    made: dict[int, tuple[int, int, int]] = {}  # result -> (row, row, sign): made of two other rows
    while (found := _mirrored([{} if k in made or k >= count else row for k, row in enumerate(rows)])) is not None:
        p, q = found
        same = {k: c for k, c in rows[p].items() if c == rows[q][k]}
        other = {k: c for k, c in rows[p].items() if k not in same}
        made[p], made[q] = (len(rows), len(rows) + 1, 1), (len(rows), len(rows) + 1, -1)
        rows += [same, other]
    plain = [k for k in range(len(rows)) if k not in made]
    sums, left = _share([rows[k] for k in plain], n)
    place = {}
    for k, row in zip(plain, left, strict=True):
        rows[k] = row
        if k >= count:
            place[k] = n + len(sums)
            sums = [*sums, row]
    for k in range(count):
        if k in made:
            p, q, sign = made[k]
            rows[k] = {place[p]: Fraction(1), place[q]: Fraction(sign)}
    return tuple(_ordered(row) for row in (*sums, *rows[:count]))


def _ordered(row: _Sum) -> tuple[tuple[Fraction, int], ...]:
    """Terms of a sum, one with coefficient 1 or -1 first if there is any: it costs no multiplication."""
    return tuple(sorted(((c, k) for k, c in row.items()), key=lambda term: (term[0] != 1, term[0] != -1, term[1])))


def operations(steps: Program) -> int:
    """Vector instructions of a program, with fused multiply-adds."""
    return sum(max(len(terms) - 1, 0) + (bool(terms) and abs(terms[0][0]) != 1) for terms in steps)


def apply(steps: Program, values: Sequence, rows: int) -> list:
    """The program on numbers of any kind: the oracle of the generated code."""
    known = list(values)
    for terms in steps:
        known.append(sum((c * known[k] for c, k in terms), start=0 * known[0]))
    return known[len(known) - rows :]
