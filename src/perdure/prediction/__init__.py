"""A saved model answers: images or tensors in, labels with probabilities out."""
