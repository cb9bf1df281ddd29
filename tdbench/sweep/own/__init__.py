"""Sweeps whose trials are a script or a function of the user's own, in place of tdbench's training."""
