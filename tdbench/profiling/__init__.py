"""What a regularizer costs: alone, in a training step, and relative to the machine's limits.

`layer`, `step` and `machine` measure modules and calls without arguments, and know neither runs nor configurations, so
that a benchmark can measure anything in the same way; `measuring` builds the runs for them.
"""
