"""Regularizers in other people's training loops: a callback for each, imported when its module is asked for."""
