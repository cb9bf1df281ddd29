"""What a regularizer costs: alone, in a training step, and against what the machine can do.

What is measured comes in from above as modules and as calls of no argument, so that this room knows neither runs nor
configurations, and a benchmark can measure anything in the same way.
"""
