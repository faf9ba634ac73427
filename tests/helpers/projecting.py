"""One kernel, projected by what ADMM projects all kernels of a plan with."""

import numpy as np
from keras import ops

from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.projections import project_plan
from keras_prm.plans.records import ChannelGroup
from keras_prm.plans.records import KernelPlan


def project_joint(kernel, keep_filters, keep_columns, pattern="free"):
    """0/1 arrays: the filters and the columns that stay, by their numbers."""
    *taps, num_inputs, num_filters = kernel.shape
    size = int(np.prod(taps)) * num_inputs
    entry = KernelPlan(
        "k/kernel",
        0,
        kernel.shape,
        (-1,) * num_inputs,
        tuple(range(num_filters)),
        1 - keep_columns / size,
        column_pattern=pattern,
    )
    group = ChannelGroup("k", 0, num_filters, keep_filters)
    plan = SparsityPlan([entry], [group], [("k/kernel", kernel.shape)])
    filters, (columns,) = project_plan([kernel], plan)
    return ops.convert_to_numpy(filters), ops.convert_to_numpy(columns)


def project_filters(kernel, keep):
    """0/1 array `(out,)`, the filters that stay where all columns do."""
    return project_joint(kernel, keep, int(np.prod(kernel.shape[:-1])))[0]


def project_columns(kernel, keep, pattern="free"):
    """0/1 array `(..., in)`, the columns that stay where all filters do."""
    return project_joint(kernel, kernel.shape[-1], keep, pattern)[1]
