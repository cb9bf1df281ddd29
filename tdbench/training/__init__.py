"""One run from its start or its checkpoint to its result."""
