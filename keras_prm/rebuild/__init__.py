"""The smaller model: `strip`, which changes nothing of what is computed.

In reading order:

    cloning        copies of layers and operations
    shared_layers  copies of layers that were given other layers
    config_arrays  numbers in configs that belong to the positions of an axis
    attachments    initializers, regularizers and constraints, made to fit
    narrowing      a convolution without its empty filters, where that pays
    layer_edits    cutting kernels without changing widths around them
    slim_weights   what stays of the weights of one layer
    slim_layer     the smaller twin of one layer: config and weights
    model_classes  models of the class of another one
    slim_model     a model of the twins of another one's layers
    channel_order  an order of channels in which columns are cheap to reach
    lower_columns  leaving out empty columns in a stripped model
    strip_report   what was done to each kernel, and what was left alone
    strip          `strip`
"""
