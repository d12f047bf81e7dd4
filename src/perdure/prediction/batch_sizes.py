"""How many images a model is given at once: what memory allows."""

from __future__ import annotations

import torch

from perdure.errors import InputError

ON_CPU = 16
"""On a CPU, larger batches are hardly faster, and take more memory."""

_FIRST_ON_DEVICE, _MOST_ON_DEVICE = 32, 128
_SHARE_OF_MEMORY = 0.8
_MOST_BYTES = 2**28


class BatchSize:
    """The size of the next batch. What does not fit into memory halves it; on a GPU with room to spare it doubles.

    Attributes:
        now: how many images the model is given.
        most: how many it may come to be, and so how many are read at once.
    """

    def __init__(self, wanted: int | str, device: torch.device, image_bytes: int | None) -> None:
        """Take what the user wants.

        Args:
            wanted: a number, or `"auto"`.
            device: where the model runs.
            image_bytes: what an image takes; None where they differ in size and cannot be given together.

        Raises:
            InputError: `wanted` is neither.
        """
        is_number = isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 1
        if not is_number and wanted != "auto":
            raise InputError(f"predicting: batch_size must be a positive number or 'auto', not {wanted!r}.")
        self._device = device
        self._grows = wanted == "auto" and device.type == "cuda"
        if isinstance(wanted, int):
            self.now = self.most = wanted
        elif image_bytes is None:
            self.now = self.most = 1
        else:
            self.most = max(1, min(_MOST_ON_DEVICE if self._grows else ON_CPU, _MOST_BYTES // max(1, image_bytes)))
            self.now = min(self.most, _FIRST_ON_DEVICE)

    def halve(self, n_images: int) -> bool:
        """Take half of what did not fit from now on; returns whether there is less to try."""
        if n_images <= 1:
            return False
        self.now = max(1, min(self.now, n_images) // 2)
        self._grows = False
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return True

    def start(self) -> None:
        """Begin to measure what a batch takes."""
        if self._grows:
            torch.cuda.reset_peak_memory_stats(self._device)

    def grow(self, n_images: int) -> None:
        """Double after a full batch, where twice as much as it took at most would fit."""
        if not self._grows or n_images < self.now or self.now >= self.most:
            return
        free, _ = torch.cuda.mem_get_info(self._device)
        held = torch.cuda.memory_allocated(self._device)
        taken = torch.cuda.max_memory_allocated(self._device) - held
        room = free + torch.cuda.memory_reserved(self._device) - held
        if 2 * taken < _SHARE_OF_MEMORY * room:
            self.now = min(2 * self.now, self.most)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory does not suffice, on a GPU or on the CPU."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in said or "out of memory" in said)
    )
