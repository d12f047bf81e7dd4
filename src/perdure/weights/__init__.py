"""Bytes become tensors and tensors bytes: saving, opening and loading of weights and nested checkpoints."""
