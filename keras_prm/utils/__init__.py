"""What every folder stands on; nothing in here knows of pruning.

In reading order:

    keras_hooks        what Keras keeps to itself, each read in one place
    keras_graph        the calls that a model is made of
    replay             those calls, made again on other tensors
    variable_keys      names of layers and variables that survive saving
    signatures         which weight is which in another build of a network
    backend            what differs between TensorFlow, JAX and PyTorch
    kernel_layout      kernels as `(..., in, out)`, however Keras lays them out
    conv_geometry      where the window of a convolution lies, and its padding
    training_argument  the argument `training` of a layer's `call`
    mixed_precision    computing in float32 what was trained otherwise
    datasets           the data that users pass, as arrays and batches
    validation         what counts as a number, or as JSON, in arguments
    atomic_files       files that are replaced in one step
    console            lines printed where Keras prints its own
"""
