"""ADMM on several devices, one script for each way Keras has.

In reading order:

    training       what they share: network, phases, flags
    mirrored       devices of one machine, TensorFlow
    multi_worker   several processes, TensorFlow
    data_parallel  devices with parted batches or weights, JAX
"""
