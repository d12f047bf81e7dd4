"""Files of other writers, read without running anything they hold; no torch."""
