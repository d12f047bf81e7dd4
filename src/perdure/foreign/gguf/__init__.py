"""GGUF files, and the blocks in which they keep weights."""
