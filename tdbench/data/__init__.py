"""Data sets, and batches made on the training device."""
