"""Images become the tensors that a model takes, as a record of its preprocessing says."""
