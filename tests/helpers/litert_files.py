"""LiteRT files, made by TensorFlow alone, for tests to run."""

import numpy as np


def file_of(function, *specs, **settings):
    """The bytes of a LiteRT file that computes `function`.

    Built by TensorFlow alone, so that its signature, shapes and types can be
    any that a file may have.
    """
    import tensorflow as tf

    function = tf.function(function, input_signature=specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    for name, value in settings.items():
        setattr(converter, name, value)
    return converter.convert()


def spec(*shape, name="x", dtype="float32"):
    import tensorflow as tf

    return tf.TensorSpec(shape, dtype, name)


def double(x):
    return 2.0 * x


def two_inputs():
    """y = (zebra - apple, zebra * apple), of equal shapes."""

    def function(zebra, apple):
        return {"output_0": zebra - apple, "output_1": zebra * apple}

    return file_of(
        function, spec(None, 3, name="zebra"), spec(None, 3, name="apple")
    )


def quantized(int_type):
    """Doubles x in [-1, 1] in 8 bits, also at its input and output."""
    import tensorflow as tf

    def samples():
        yield [np.array([[-1.0, 0.0, 1.0]], "float32")]

    return file_of(
        double,
        spec(None, 3),
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=samples,
        inference_input_type=getattr(tf, int_type),
        inference_output_type=getattr(tf, int_type),
    )
