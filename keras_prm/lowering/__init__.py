"""Leaving out the empty columns of kernels: the ways to do it, and choosing
one.

In reading order:

    gather_columns  `GatherColumns`: the columns of an input that are read
    methods         the ways to store and compute a kernel with empty columns
    cost_model      what each costs, by a fitted model and in bytes
    strategies      choosing by numbers, by bytes, or by the cost model
    layer_timing    one layer as a file, to be timed; what was measured before
    auto            `AutoLowering`: choosing by what LiteRT needs here
"""
