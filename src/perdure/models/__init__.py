"""Whole models: `nn.Module` to records and back, by its classes or by its graph."""
