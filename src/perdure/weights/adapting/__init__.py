"""How the values of a file are fitted to a place of another shape: one file for each way."""
