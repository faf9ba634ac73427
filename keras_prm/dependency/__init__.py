"""The graph of channels: which positions belong together, and what each step of
a model does to them. Rules write it, the analysis reads it.

In reading order:

    values          the tensors and weights of a graph, their axes named by ids
    reshape_ids     where ids go when a tensor is reshaped
    ambiguous_sums  sums that TensorFlow takes for a layer with a bias
    constants       what a channel that never varies becomes on its way
    propagation     the steps: constants go forward through them, uses backward
    graph_builder   what rules write to
"""
