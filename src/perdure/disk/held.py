"""A descriptor that an object holds."""

from __future__ import annotations

import os


class HeldDescriptor:
    """A descriptor that is closed at the latest when nobody knows it any more, wherever an interrupt may have come."""

    descriptor = -1

    def close(self) -> None:
        """Close it, which also unlocks it."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
