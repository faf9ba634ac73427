"""One rule for each layer class: how it treats the channels it is given, and
how it is made smaller. `register_rule` adds one for a layer of your own.

In reading order:

    base           what a rule is, and the call that it sees
    kernels        layers with a kernel, which make channels
    normalization  layers that scale channels, or normalize over them
    passthrough    layers that hand channels on
    merging        layers and operators that join tensors
    reshaping      layers that move channels to other places
    axes           operators that pick, move, reduce or contract axes
    attention      heads, and the dimensions of all heads
    rnn            recurrent layers, and wrappers around layers
    operators      the table of `keras.ops`
    registry       the table of layer classes; `register_rule`
"""
