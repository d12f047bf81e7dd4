"""Summaries: what is in a model, from its file or from the module itself."""
