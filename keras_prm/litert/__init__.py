"""`.tflite` files: written, read, compared and timed.

In reading order:

    flatbuffer          what a file says of itself: operations, weights, notes
    runtime             what is installed of LiteRT
    model               `LiteRTModel`: running a file
    float_inputs        a model that takes float32 where it took integers
    conversion          the call of TensorFlow's converter, and its errors
    conversion_process  the same in a process of its own, for other backends
    file_runs           running a file to compare it
    evaluation          a metric of a model and of its file
    export_checks       what `export_litert` refuses at once
    export              `export_litert`
    timing              `latency`: timing jobs in turn
    peak_memory         the memory that a file takes, in a process of its own
    benchmark_models    from what is to be measured to files with names
    benchmark           `benchmark`
"""
