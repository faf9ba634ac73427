"""Leaving out the empty columns of kernels: the ways to do it, and choosing
one.

In reading order:

    gather_columns  `GatherColumns`: the columns of an input that are read
    methods         the ways to store and compute a kernel with empty columns
    cost_model      what each costs, by a fitted model and in bytes
    strategies      choosing by numbers, by bytes, or by the cost model
    layer_timing    one layer as a file, to be timed; what was measured before
    auto            `AutoLowering`: choosing by what LiteRT needs here

A strategy of one's own is a `Lowerer`; what it needs is exported here.
"""

from keras_prm.lowering.methods import Lowering
from keras_prm.lowering.methods import SparseKernel
from keras_prm.lowering.methods import candidates
from keras_prm.lowering.strategies import Choice
from keras_prm.lowering.strategies import Lowerer

__all__ = ["Choice", "Lowerer", "Lowering", "SparseKernel", "candidates"]
