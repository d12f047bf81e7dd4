"""The largest singular value of a matrix that is read in slabs, in bounded memory.

Where one side is short, it is the root of the largest eigenvalue of the short Gram matrix, summed up in float64. Else the
largest eigenvalue of the Gram matrix is found by block Lanczos iteration with full orthogonalisation and thick restarts
(Golub and Van Loan, *Matrix Computations*, 10.3): the matrix is read once a step. It ends when the residual proves an
eigenvalue within the tolerance. It begins with the same random vectors each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

TOLERANCE = 1e-4
"""The relative error that is allowed."""

_SLAB_ELEMENTS = 2**19
_HELD_ELEMENTS = 2**22
_SHORT = 256
_LONGEST_ROW = 2**19
_BASIS_ELEMENTS = 2**20
_BLOCK = 16
_MAX_STEPS = 300
_SAFE_SCALES = (1e-15, 1e15)

Read = Callable[[int, int], torch.Tensor]
"""`read(start, stop)` gives elements in logical order, flat."""


def spectral_norm(read: Read, shape: tuple[int, int], largest: float) -> float:
    """Return the largest singular value of a matrix of finite numbers.

    Args:
        read: gives its elements.
        shape: its rows and columns, neither of them 0.
        largest: the largest absolute value of a number in it.
    """
    if not largest:
        return 0.0
    matrix = _Matrix(read, shape, largest)
    eigenvalue = _by_gram_matrix(matrix) if min(shape) <= _SHORT else _by_iteration(matrix)
    return largest * max(eigenvalue, 0.0) ** 0.5


class _Matrix:
    """A matrix whose numbers are at most 1, read in slabs of whole rows or, where these are few and long, whole columns."""

    def __init__(self, read: Read, shape: tuple[int, int], largest: float) -> None:
        self._read, self._largest = read, largest
        self.shape = shape
        n_rows, n_columns = shape
        self.by_rows = n_columns <= n_rows or (n_columns <= _LONGEST_ROW and n_rows > _SHORT)
        self.size = n_columns if self.by_rows else n_rows
        self.is_complex = read(0, 1).is_complex()
        self._held: list[torch.Tensor] = []

    def slabs(self, wide: bool) -> Iterator[torch.Tensor]:
        """Yield slabs, each with `size` columns; their products with themselves add up to the Gram matrix."""
        if self._held:
            yield from self._held
            return
        holds = self.shape[0] * self.shape[1] <= _HELD_ELEMENTS
        step = max(_SLAB_ELEMENTS // self.size, 1)
        for start in range(0, self.shape[0 if self.by_rows else 1], step):
            slab = self._numbers(self._rows(start, step) if self.by_rows else self._columns(start, step), wide)
            if holds:
                self._held.append(slab)
            yield slab

    def _rows(self, start: int, n: int) -> torch.Tensor:
        n_rows, n_columns = self.shape
        return self._read(start * n_columns, min(start + n, n_rows) * n_columns).view(-1, n_columns)

    def _columns(self, start: int, n: int) -> torch.Tensor:
        n_rows, n_columns = self.shape
        stop = min(start + n, n_columns)
        return torch.stack([self._read(row * n_columns + start, row * n_columns + stop) for row in range(n_rows)], 1)

    def _numbers(self, values: torch.Tensor, wide: bool) -> torch.Tensor:
        kinds = (torch.complex64, torch.complex128) if self.is_complex else (torch.float32, torch.float64)
        if values.itemsize == 1:
            values = values.to(torch.float32)
        safe = _SAFE_SCALES[0] < self._largest < _SAFE_SCALES[1]
        return (values.to(kinds[wide or not safe]) / self._largest).to(kinds[wide])


def _by_gram_matrix(matrix: _Matrix) -> float:
    gram = sum(slab.mH @ slab for slab in matrix.slabs(wide=True))
    assert isinstance(gram, torch.Tensor)
    return float(torch.linalg.eigvalsh(gram)[-1])


def _by_iteration(matrix: _Matrix) -> float:
    size = matrix.size
    width = max(min(_BLOCK, _BASIS_ELEMENTS // (4 * size)), 1)
    room = max(min(_BASIS_ELEMENTS // size, 10 * _BLOCK), 4 * width)
    block = torch.linalg.qr(_random(size, width, matrix.is_complex))[0]
    basis = images = block[:, :0]
    found = 0.0
    for _ in range(_MAX_STEPS):
        image = _image(matrix, block)
        basis, images = torch.cat([basis, block], 1), torch.cat([images, image], 1)
        values, vectors = torch.linalg.eigh(_hermitian(basis.mH @ images))
        found, best = float(values[-1]), vectors[:, -1:]
        residual = float(torch.linalg.vector_norm(images @ best - found * (basis @ best)))
        if _is_settled(values, residual, width) or basis.shape[1] >= size:
            break
        block = _beyond(image, basis)[:, : size - basis.shape[1]]
        if basis.shape[1] + width > room:
            basis, images = basis @ vectors[:, -2 * width :], images @ vectors[:, -2 * width :]
    return found


def _is_settled(values: torch.Tensor, residual: float, width: int) -> bool:
    """Tell whether the largest eigenvalue is known: by its residual, or by the residual and the gap to those beyond a block.

    The error of an eigenvalue is at most its residual, and at most the residual's square over the gap.
    """
    largest = float(values[-1])
    if residual <= TOLERANCE * largest:
        return True
    gap = largest - float(values[-width - 1]) if len(values) > width else 0.0
    return residual**2 <= TOLERANCE * largest * gap


def _image(matrix: _Matrix, block: torch.Tensor) -> torch.Tensor:
    """Return the Gram matrix times some vectors; the slabs are multiplied in float32, and summed up in float64."""
    narrow = block.to(torch.complex64 if matrix.is_complex else torch.float32)
    image = torch.zeros_like(block)
    for slab in matrix.slabs(wide=False):
        image += slab.mH @ (slab @ narrow)
    return image


def _random(size: int, width: int, is_complex: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.complex128 if is_complex else torch.float64
    return torch.randn(size, width, dtype=dtype, generator=generator, device="cpu")


def _hermitian(matrix: torch.Tensor) -> torch.Tensor:
    return (matrix + matrix.mH) / 2


def _beyond(block: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return orthonormal vectors that span what of a block lies outside of a basis."""
    for _ in range(2):
        block = torch.linalg.qr(block - basis @ (basis.mH @ block))[0]
    return block
