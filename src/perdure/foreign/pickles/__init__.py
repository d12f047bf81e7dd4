"""Pickles, interpreted without a way to import; what they name, judged."""
