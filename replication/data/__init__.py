"""Readers of the real on-disk formats, preparation, splits, and the batches that training takes."""
