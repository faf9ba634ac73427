"""Models made to break `strip`."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.rebuild.strip import strip
from tests.helpers import zoo
from tests.helpers.zeros import edit
from tests.helpers.zeros import max_error
from tests.helpers.zeros import shapes
from tests.helpers.zeros import zero_filters

CASES = {}


def case(function):
    CASES[function.__name__.removeprefix("_")] = function
    return function


def finish(inputs, outputs, **zeros):
    """A random model with filters of some layers at zero, biases not."""
    model = keras.Model(inputs, outputs)
    zoo.randomize(model)
    zero_filters(model, **zeros)
    return model


def image(channels=3, size=6):
    return keras.Input((size, size, channels))


@case
def _batch_norm_without_scale():
    """gamma is 0: the channel is beta, whatever comes in."""
    bn = layers.BatchNormalization()
    x = inputs = image()
    x = bn(layers.Conv2D(6, 3, name="a")(x))
    x = layers.Conv2D(3, 1)(layers.LeakyReLU()(x))
    model = finish(inputs, x, a=[1])
    edit(bn.gamma, [2, 3])
    return model


@case
def _gate_of_squeeze_and_excitation():
    x = inputs = image()
    x = layers.Conv2D(8, 3, name="a")(x)
    g = layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = layers.Conv2D(4, 1, activation="relu", name="s")(g)
    g = layers.Conv2D(8, 1, activation="sigmoid", name="g")(g)
    x = layers.Conv2D(3, 3, padding="same")(layers.Multiply()([x, g]))
    model = finish(inputs, x, a=[1, 3], s=[0, 1], g=[2])
    edit(model.get_layer("a").bias, [1])
    return model


@case
def _gate_of_one_channel():
    x = inputs = image()
    x = layers.Conv2D(8, 3, name="a")(x)
    g = layers.Conv2D(1, 3, activation="sigmoid", name="g")(inputs)
    x = layers.Conv2D(3, 3)(layers.Multiply()([x, g]))
    return finish(inputs, x, a=[1, 3], g=[0])


@case
def _the_same_tensor_twice():
    x = inputs = keras.Input((4,))
    x = layers.Dense(6, name="a")(x)
    y = layers.Concatenate()([x, x])
    z = layers.Add()([x, x])
    y = layers.Concatenate()([y, z, x + x, x * x, x])
    return finish(inputs, layers.Dense(3)(y), a=[1, 3])


@case
def _constants_under_maximum():
    inputs = image()
    x = layers.Conv2D(6, 3, name="a")(inputs)
    y = layers.Conv2D(6, 3, name="b")(inputs)
    z = ops.minimum(ops.maximum(layers.Maximum()([x, y]), 0.5), x)
    return finish(inputs, layers.Conv2D(3, 3)(z), a=[1, 3], b=[1, 2])


@case
def _inputs_and_inner_tensors_as_outputs():
    inputs = keras.Input((4,), name="i")
    x = layers.Dense(5, name="a")(inputs)
    y = layers.Dense(5, name="b")(x)
    outputs = {"i": inputs, "x": x, "y": layers.Dense(2)(y)}
    return finish(inputs, outputs, a=[1], b=[2, 3])


@case
def _dense_on_four_axes():
    x = inputs = keras.Input((5, 6, 4))
    x = layers.Dense(6, name="a", activation="sigmoid")(x)
    x = layers.Dense(7, name="b")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.Permute((2, 3, 1))(layers.Dense(5, name="c")(x))
    x = layers.Conv2D(3, 3, name="d")(x)
    return finish(inputs, x, a=[1, 3], b=[1, 2], c=[0])


@case
def _permute_then_conv():
    x = inputs = image(4)
    x = layers.Conv2D(6, 1, name="a")(x)
    x = layers.Conv2D(5, 3, name="b")(layers.Permute((3, 1, 2))(x))
    x = layers.Dense(2)(layers.Flatten()(x))
    return finish(inputs, x, a=[1, 3], b=[1, 3])


@case
def _reshape_with_minus_one():
    x = inputs = image()
    x = layers.Conv2D(6, 3, name="a", padding="same")(x)
    x = layers.Conv1D(4, 3, name="b")(layers.Reshape((-1, 6))(x))
    x = layers.Flatten()(layers.Reshape((17, 2, -1))(x))
    return finish(inputs, layers.Dense(2)(x), a=[1, 3], b=[0, 1])


@case
def _reshape_of_unknown_size():
    x = inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, name="a", padding="same")(x)
    x = layers.Conv1D(4, 3, name="b")(layers.Reshape((-1, 6))(x))
    x = layers.Conv2D(2, 1)(layers.Reshape((-1, 2, 2))(x))
    return finish(inputs, x, a=[1, 3], b=[1, 2])


@case
def _one_reshape_for_two_tensors():
    inputs = image(size=4)
    reshape = layers.Reshape((4 * 4 * 6,))
    x = (layers.Conv2D(6, 1, name=n)(inputs) for n in "ab")
    outputs = [layers.Dense(2)(reshape(y)) for y in x]
    return finish(inputs, outputs, a=[1], b=[1, 2])


@case
def _one_reshape_for_two_sizes():
    inputs = image(), image(size=5)
    reshape = layers.Reshape((-1, 6))
    x = (layers.Conv2D(6, 1, name=n)(i) for n, i in zip("ab", inputs))
    outputs = [layers.Conv1D(2, 3)(reshape(y)) for y in x]
    return finish(list(inputs), outputs, a=[1], b=[1, 2])


@case
def _flatten_that_moves_channels_to_the_end():
    x = inputs = image()
    x = layers.Conv2D(6, 3, name="a")(x)
    x = layers.Flatten(data_format="channels_first")(x)
    return finish(inputs, layers.Dense(3)(x), a=[1, 3])


@case
def _sums_with_an_axis_of_unknown_length():
    inputs = keras.Input((None, 1)), keras.Input((4,))
    x = layers.Reshape((7, 1))(layers.Dense(7, name="a")(inputs[1]))
    y = layers.Concatenate(axis=1)([inputs[0], x])
    y = layers.Conv1D(2, 1)(y)
    z = layers.Conv1D(2, 1)(layers.Add()([inputs[0], x]))
    return finish(list(inputs), [y, z], a=[1, 3])


@case
def _sequential_in_model_in_model():
    norm = layers.BatchNormalization()
    s = keras.Sequential(
        [image(6), layers.Conv2D(6, 3, padding="same", name="c"), norm]
    )
    i = image(6)
    body = keras.Model(i, layers.ReLU()(s(i)) + i)
    x = inputs = image()
    x = layers.Conv2D(6, 1, name="a")(x)
    x = layers.Conv2D(2, 3)(s(body(body(x))))
    model = finish(inputs, x, a=[1, 3])
    zero_filters(s, c=[1, 2])
    edit(norm.gamma, [1, 3])
    edit(norm.beta, [1])
    return model


@case
def _nested_model_fed_by_name():
    b, a = keras.Input((4,), name="b"), keras.Input((4,), name="a2")
    x = [layers.Dense(3, name="db")(b), layers.Dense(2, name="da")(a)]
    body = keras.Model([b, a], layers.Concatenate()(x))
    inputs = keras.Input((4,))
    x, y = (layers.Dense(4, name=n)(inputs) for n in "xy")
    x = layers.Dense(2)(body({"a2": x, "b": y}))
    return finish(inputs, x, x=[1], y=[2, 3])


@case
def _shared_batch_norm():
    inputs = image()
    norm, out = layers.BatchNormalization(), layers.Conv2D(3, 1)
    x = (norm(layers.Conv2D(6, 1, name=n)(inputs)) for n in "ab")
    model = finish(inputs, [out(y) for y in x], a=[1, 3], b=[1, 2])
    edit(norm.gamma, [3, 5])
    return model


@case
def _random_layers():
    x = inputs = keras.Input((4,))
    x = layers.Dropout(0.3, seed=7)(layers.Dense(6, name="a")(x))
    x = layers.AlphaDropout(0.2)(layers.GaussianNoise(0.1)(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    zero_filters(model, a=[1, 3])
    return model


@case
def _activation_layers():
    x = inputs = image()
    x = layers.Conv2D(6, 1, name="a", activation=layers.LeakyReLU(0.2))(x)
    x = layers.Conv2D(6, 1, name="b", activation=layers.Softmax())(x)
    x = layers.Activation(layers.ELU(0.5))(x)
    return finish(inputs, layers.Conv2D(2, 1)(x), a=[1, 3], b=[2])


def square_plus_one(x):
    return x * x + 1.0


@case
def _activation_of_ones_own():
    x = inputs = keras.Input((4,))
    x = layers.Dense(6, name="a", activation=square_plus_one)(x)
    x = layers.Activation(square_plus_one)(layers.Dense(5, name="b")(x))
    return finish(inputs, layers.Dense(3)(x), a=[1], b=[2])


@case
def _integers():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Conv1D(4, 2, name="a")(layers.Embedding(10, 5)(inputs))
    y = layers.Dense(4, name="b")(inputs)
    outputs = [layers.Dense(3)(x), layers.Dense(2)(y), inputs]
    return finish(inputs, outputs, a=[1, 3], b=[2])


@case
def _operators():
    x = inputs = image()
    x = 1 - layers.Conv2D(6, 3, name="a")(x)
    x = x * np.float32(2) + np.ones((1,), "float32")
    y = layers.Conv2D(6, 1, name="b")(x)
    y = ops.leaky_relu(2 / (y * y + 1.5), negative_slope=0.3)
    z = layers.Conv2D(6, 1, name="c")(y)
    z = -ops.gelu(ops.add(x1=z, x2=z), approximate=False)
    return finish(inputs, layers.Conv2D(3, 3)(z), a=[1], b=[1, 2], c=[3])


@case
def _operations_without_a_rule():
    x = inputs = image()
    x = abs(-(layers.Conv2D(6, 3, name="a")(x) ** 2))
    y = ops.concatenate([x[..., 2:5], x], axis=-1)
    y, z = ops.split(y, [3], axis=-1)
    w = ops.mean(ops.reshape(x, (-1, 16, 6)), axis=1)
    outputs = [layers.Conv2D(2, 3)(y), layers.Conv2D(2, 3)(z)]
    return finish(inputs, [*outputs, layers.Dense(2)(w)], a=[1, 3])


@case
def _constants_through_depthwise():
    x = inputs = image(size=8)
    x = layers.Conv2D(4, 1, name="a", activation="sigmoid")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw")(x)
    x = layers.SeparableConv2D(5, 3, use_bias=False)(x)
    model = finish(inputs, layers.Conv2D(3, 2)(x), a=[1, 3])
    edit(model.get_layer("dw").kernel, ..., 0, 1)
    return model


@case
def _layers_without_a_rule():
    x = inputs = keras.Input((7, 4))
    x = layers.Dense(6, name="a")(x)
    x = layers.MultiHeadAttention(2, 3)(query=x, value=x)
    x = layers.Bidirectional(layers.LSTM(3))(layers.Masking()(x))
    x = layers.Dense(5, name="b")(x)
    return finish(inputs, layers.Dense(2)(x), a=[1], b=[2])


@case
def _adapted_normalization():
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(0).normal(3, 5, (50, 4)))
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="a")(norm(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    zero_filters(model, a=[1])
    return model


@case
def _names_that_adapters_would_take():
    x = inputs = image()
    x = layers.Activation("relu", name="a_pad")(x)
    x = layers.Activation("tanh", name="a_crop")(x)
    x = layers.Conv2D(4, 5, padding="same", name="a")(x)
    model = finish(inputs, x)
    edit(model.get_layer("a").kernel, slice(0, 3))
    return model


@case
def _window_larger_than_the_image():
    x = inputs = image(size=1)
    x = layers.Conv2D(4, 3, padding="same", name="a")(x)
    model = finish(inputs, x)
    edit(model.get_layer("a").kernel, slice(1, 3))
    return model


@case
def _window_of_a_layer_that_is_pinned():
    inputs = image(size=8), image(size=9)
    conv = layers.Conv2D(4, 5, strides=2, padding="same")
    outputs = [conv(inputs[0]), conv(inputs[1], training=True)]
    model = finish(list(inputs), outputs)
    edit(conv.kernel, slice(0, 2))
    return model


@case
def _zero_term_that_takes_the_mask_away():
    """A sum has no mask if one term has none; its pooling sees all steps."""
    x = keras.Input((5, 3))
    a = layers.Dense(4, name="a")(layers.Masking()(x))
    b = layers.Conv1D(4, 1, name="b")(x)
    total = layers.GlobalAveragePooling1D()(layers.Add()([a, b]))
    model = finish(x, total)
    edit(model.get_layer("b").kernel, ...)
    edit(model.get_layer("b").bias, ...)
    return model


@case
def _nested_model_of_unknown_size():
    i = keras.Input((None, None, 8))
    y = layers.Conv2D(6, 3, padding="same", name="b")(i)
    head = keras.Model(i, layers.Conv2D(2, 1, name="c")(y), name="head")
    x = image()
    y = layers.Conv2D(8, 3, padding="same", name="a")(x)
    outputs = [head(y), head(layers.MaxPooling2D(2)(y))]
    model = finish(x, outputs, a=[1, 2])
    edit(head.get_layer("b").kernel, ..., [0, 3])
    return model


@case
def _shared_layer_on_two_ranks():
    dense = layers.Dense(6, name="a")
    inputs = [keras.Input((8,)), keras.Input((5, 8))]
    y, z = map(dense, inputs)
    z = layers.Add()([y, layers.Flatten()(layers.Dense(6)(z[:, 0]))])
    return finish(inputs, layers.Dense(2)(z), a=[1, 4])


@keras.saving.register_keras_serializable(package="tests")
class OwnLayer(layers.Layer):
    """Has an initializer that is no argument."""

    def build(self, shape):
        self.scale_initializer = keras.initializers.Ones()
        self.scale = self.add_weight(
            shape=shape[-1:], initializer=self.scale_initializer
        )

    def call(self, x):
        return x * self.scale


@keras.saving.register_keras_serializable(package="tests")
class TwoKernels(layers.Layer):
    """Draws three variables by one initializer."""

    def __init__(self, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, shape):
        draw = {"initializer": self.kernel_initializer}
        self.kernel = self.add_weight(shape=(shape[-1], 3), **draw)
        self.second = self.add_weight(shape=(3, 5), **draw)
        self.third = self.add_weight(shape=(shape[-1], 3), **draw)

    def call(self, x):
        return x @ (self.kernel - self.third) @ self.second


@case
def _one_initializer_for_several_variables():
    x = inputs = keras.Input((4,))
    x = TwoKernels()(layers.Dense(6, name="a")(x))
    return finish(inputs, layers.Dense(2)(x), a=[1, 4])


@case
def _layer_of_ones_own():
    x = inputs = keras.Input((4,))
    x = OwnLayer()(layers.Dense(6, name="a")(x))
    return finish(inputs, layers.Dense(2)(x), a=[1, 4])


@case
def _shared_layer_that_is_pinned_in_one_call():
    """What one call leaves alone, the other must not cut."""
    dense = layers.Dense(6, name="a")
    x, y = keras.Input((8,)), keras.Input((8,))
    outputs = [dense(x), layers.Softmax()(dense(y, training=True))]
    outputs = [layers.Dense(2)(z) for z in outputs]
    return finish([x, y], outputs, a=[1, 4])


@case
def _adapted_discretization():
    bins = layers.Discretization(num_bins=4, output_mode="one_hot")
    bins.adapt(np.linspace(0, 9, 50, dtype="float32")[:, None])
    x = inputs = keras.Input((1,))
    x = layers.Dense(5, activation="relu", name="a")(bins(x))
    return finish(inputs, layers.Dense(2)(x), a=[1, 4])


@case
def _reshape_that_mixes_the_batch():
    x = inputs = keras.Input((4,))
    x = layers.Dense(4, name="a")(x)
    y = ops.reshape(x, (3, -1, 2))  # three samples, see the test
    y = ops.reshape(ops.reshape(y, (-1, 2)), (3, 4))
    return finish(inputs, [layers.Dense(2)(y), layers.Dense(2)(x)], a=[1, 2])


@case
def _reshape_that_drops_the_batch():
    x = inputs = image(size=4)
    x = layers.Conv2D(6, 1, name="a")(x)
    x = layers.Dense(5, name="b")(ops.reshape(x, (-1, 6)))
    x = ops.reshape(x, (-1, 4, 4, 5))
    return finish(inputs, layers.Conv2D(2, 1)(x), a=[1, 3], b=[0, 2])


@case
def _split_of_an_axis_of_unknown_length():
    x = inputs = keras.Input((None, 4))
    x = layers.Dense(6, name="a")(x)
    x, y = ops.split(x, [2], axis=1)
    x = layers.Concatenate(axis=1)([y, x])
    return finish(inputs, layers.Dense(2)(x), a=[1, 3])


@case
def _arrays_of_constants():
    x = inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(x)
    x = ops.multiply(ops.add(x, np.arange(3)), np.ones((1, 3), "float16"))
    y = layers.Dense(3, name="b")(inputs) / np.array([[1.0, 2.0, 4.0]])
    return finish(inputs, layers.Dense(2)(x + y), a=[1], b=[1, 2])


@case
def _attention_that_returns_its_scores():
    x = inputs = keras.Input((7, 4))
    x = layers.Dense(6, name="a")(x)
    y, scores = layers.MultiHeadAttention(2, 3)(
        x, x, return_attention_scores=True
    )
    return finish(inputs, [layers.Dense(2)(y), scores], a=[1, 2])


@case
def _attention_with_masks():
    u, v = keras.Input((7, 4)), keras.Input((7, 7), dtype="bool")
    x = layers.Dense(6, name="a")(layers.Masking()(u))
    y = layers.MultiHeadAttention(2, 3, name="m")(
        x, x, attention_mask=v, return_attention_scores=False
    )
    model = finish([u, v], layers.Dense(2)(y), a=[1, 2])
    for name, of in (("query", 2), ("key", 1), ("value", 0)):
        kernel = getattr(model.get_layer("m"), f"{name}_dense").kernel
        edit(kernel, ..., of)
    return model


@case
def _a_recurrent_layer_that_is_given_a_state():
    x, h = keras.Input((7, 4)), keras.Input((3,))
    y = layers.GRU(3, name="g")(layers.Dense(5, name="a")(x), initial_state=h)
    return finish([x, h], layers.Dense(2)(y), a=[1, 2])


@case
def _units_that_keep_their_bias():
    """A unit without weights still moves, by its bias alone."""
    x = inputs = keras.Input((7, 4))
    x = layers.LSTM(5, return_sequences=True, name="l")(x)
    x = layers.SimpleRNN(4, name="r")(x)
    model = finish(inputs, layers.Dense(2)(x))
    for name in "lr":
        cell = model.get_layer(name).cell
        for kernel in (cell.kernel, cell.recurrent_kernel):
            edit(kernel, ..., slice(1, None, cell.units))
            edit(kernel, ..., slice(2, None, cell.units))
        edit(cell.bias, slice(2, None, cell.units))
    return model


@case
def _one_layer_inside_and_outside_of_a_wrapper():
    dense = layers.Dense(5, name="a")
    x = inputs = keras.Input((7, 4))
    y = layers.TimeDistributed(dense)(x)
    z = dense(x[:, 0])
    y = layers.GlobalAveragePooling1D()(y)
    return finish(inputs, [layers.Dense(2)(y), layers.Dense(2)(z)], a=[1, 2])


@case
def _wrappers_in_wrappers():
    x = inputs = keras.Input((3, 5, 4))
    inner = keras.Sequential(
        [keras.Input((5, 4)), layers.Conv1D(6, 3), layers.LayerNormalization()]
    )
    x = layers.TimeDistributed(inner)(x)
    x = layers.TimeDistributed(layers.TimeDistributed(layers.Dense(5)))(x)
    x = layers.TimeDistributed(layers.Bidirectional(layers.LSTM(3)))(x)
    model = finish(inputs, layers.Dense(2)(layers.Flatten()(x)))
    edit(inner.layers[0].kernel, ..., [1, 2])
    return model


@case
def _one_channel_that_an_array_broadcasts():
    x = inputs = keras.Input((4,))
    g = layers.Dense(1)(layers.Dense(8, activation="relu", name="a")(x))
    y = g * np.arange(1.0, 7.0, dtype="float32")
    return finish(inputs, layers.Dense(2)(y), a=[1])


@case
def _attention_whose_mask_is_computed():
    x = inputs = keras.Input((7, 8))
    mask = layers.Dense(7, activation="sigmoid", name="a")(x)
    mask = ops.cast(ops.round(mask), "bool")
    y = layers.MultiHeadAttention(2, 3)(x, x, attention_mask=mask)
    z = layers.GroupQueryAttention(4, 2, 2)(x, x, attention_mask=mask)
    return finish(inputs, [layers.Dense(2)(y), layers.Dense(2)(z)])


@case
def _attention_whose_mask_has_heads():
    u, v = keras.Input((7, 4)), keras.Input((3, 7, 7), dtype="bool")
    y = layers.MultiHeadAttention(3, 2, name="m")(u, u, attention_mask=v)
    model = finish([u, v], layers.Dense(2)(y))
    edit(model.get_layer("m").output_dense.kernel, 1)
    return model


@case
def _a_mask_without_a_name():
    u, v = keras.Input((7, 4)), keras.Input((7, 4))
    mask = layers.Dense(1, activation="sigmoid", name="a")(v)
    mask = ops.cast(ops.round(ops.squeeze(mask, -1) + 0.3), "bool")
    x = layers.Dense(6, name="b")(u)
    y = layers.GlobalAveragePooling1D()(x, mask)
    z = layers.LSTM(4)(x, mask=mask)
    return finish([u, v], [layers.Dense(2)(y), layers.Dense(2)(z)], b=[1])


@case
def _moments_of_a_group_read_all_of_it():
    x = inputs = keras.Input((5, 4))
    x = layers.Dense(8, activation="relu", name="h")(x)
    x = layers.GroupNormalization(2)(layers.Dense(4, name="a")(x))
    model = finish(inputs, layers.Dense(2, name="o")(x))
    kernel = np.array(ops.convert_to_numpy(model.get_layer("a").kernel))
    kernel[3] = kernel[:, 1] = 0
    kernel[3, 1] = 1
    model.get_layer("a").kernel.assign(kernel)
    edit(model.get_layer("o").kernel, 1)
    return model


@case
def _einsum_that_sums_what_the_kernel_lacks():
    x = inputs = keras.Input((3, 4))
    x = layers.Permute((2, 1))(layers.Dense(5, name="a")(x))
    x = layers.EinsumDense("abc,cd->ad", output_shape=(5,), bias_axes="d")(x)
    y = layers.Dense(4, name="b")(inputs)
    y = layers.EinsumDense("abc,cd->ad", output_shape=(5,), bias_axes="d")(y)
    outputs = [layers.Dense(2)(x), layers.Dense(2)(y)]
    return finish(inputs, outputs, a=[1, 2], b=[1])


@case
def _activations_that_read_what_is_moved():
    def by_step(x):
        return ops.softmax(x, axis=1)

    x = inputs = keras.Input((3, 4))
    x = layers.Permute((2, 1))(layers.Dense(5, name="a")(x))
    y = layers.EinsumDense("abc,cd->adb", (6, 5), activation="softmax")(x)
    z = layers.Dense(5, activation=by_step)(x)
    y, z = layers.Flatten()(y), layers.Flatten()(z)
    model = finish(inputs, [layers.Dense(2)(y), layers.Dense(2)(z)], a=[1, 2])
    edit(model.get_layer("a").bias, [1, 2])
    return model


@case
def _einsum_with_a_bias_on_another_axis():
    x = inputs = keras.Input((5, 4))
    x = layers.Dense(4, name="a")(x)
    x = layers.EinsumDense("abc,cd->adb", (5, 5), bias_axes="b", name="e")(x)
    model = finish(inputs, layers.Flatten()(x), a=[1])
    return model


@case
def _recurrent_activations_that_read_all_units():
    x = inputs = keras.Input((7, 4))
    y = layers.LSTM(6, activation="softmax", name="l")(x)
    z = layers.GRU(6, recurrent_activation="softmax", name="g")(x)
    outputs = [layers.Dense(2, name=f"o{n}")(t) for n, t in zip("lg", (y, z))]
    model = finish(inputs, outputs)
    for name in "lg":
        edit(model.get_layer(f"o{name}").kernel, [1, 2])
        edit(model.get_layer(name).cell.recurrent_kernel, [1, 2])
    return model


def _prelu_of_two(reverse):
    i, j = keras.Input((6,)), keras.Input((6,))
    prelu = layers.PReLU()
    strange = ops.flip(j, -1)
    if reverse:
        z = prelu(layers.Dense(6, name="a")(i))
        y = prelu(strange)
    else:
        y = prelu(strange)
        z = prelu(layers.Dense(6, name="a")(i))
    return finish([i, j], [y, layers.Dense(2)(z)], a=[1])


@case
def _shared_prelu_whose_first_input_is_untracked():
    return _prelu_of_two(False)


@case
def _shared_prelu_whose_second_input_is_untracked():
    return _prelu_of_two(True)


@case
def _operators_with_numbers_of_numpy():
    x = inputs = keras.Input((4, 6))
    x = layers.Dense(6, name="a")(x)
    x = ops.pad(x, np.array([[0, 0], [1, 0], [0, 0]]))
    x, y = ops.split(x, np.array([2]), axis=-1)
    x = ops.reshape(x, (-1, np.prod(x.shape[1:])))
    y = ops.clip(y, np.zeros(4, "float32"), np.ones(4, "float32"))
    outputs = [layers.Dense(2)(x), layers.Dense(2)(y)]
    return finish(inputs, outputs, a=[1, 3])


@case
def _slices_that_pick_one_position():
    x = inputs = keras.Input((6,))
    x = layers.Dense(6, name="a")(x)
    (z,) = ops.split(layers.Dense(5, name="b")(x), 1, axis=-1)
    y = ops.concatenate([x[:, 3:2:-1], x[:, 1:4:3], x[:, -1:], z], axis=-1)
    return finish(inputs, layers.Dense(2)(y), a=[0, 3], b=[1])


def _attention_changed(change):
    x = inputs = keras.Input((5, 8))
    x = layers.Dense(8, name="a")(x)
    mha = layers.MultiHeadAttention(2, 4)
    model = finish(inputs, layers.Dense(2)(mha(x, x)), a=[1])
    change(mha)
    return model


@case
def _attention_with_lora():
    return _attention_changed(lambda mha: mha.query_dense.enable_lora(2))


@case
def _attention_that_is_quantized():
    return _attention_changed(lambda mha: mha.key_dense.quantize("int8"))


@keras.saving.register_keras_serializable(package="tests")
class Twice(keras.Model):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs)


@case
def _functional_model_with_a_call_of_its_own():
    i = keras.Input((6,))
    body = Twice(i, layers.Dense(4, name="d")(i))
    x = inputs = keras.Input((3, 4))
    x = layers.Dense(6, name="a")(x)
    y = layers.TimeDistributed(body)(x)
    z = body(layers.GlobalAveragePooling1D()(x))
    return finish(inputs, [layers.Dense(2)(y), layers.Dense(2)(z)], a=[1])


@case
def _text_with_masks():
    x = inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(9, 6, mask_zero=True, name="e")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(6, name="t"))(x)
    y = layers.MultiHeadAttention(2, 3)(x, x)
    z = layers.GRU(5, name="g")(x)
    y = layers.GlobalAveragePooling1D()(y)
    model = finish(inputs, layers.Dense(2)(layers.Concatenate()([y, z])))
    edit(model.get_layer("e").embeddings, ..., [1, 2])
    cell = model.get_layer("g").cell
    for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
        edit(variable, ..., [1, 6, 11])
    return model


def own_sigmoid(x):
    return ops.sigmoid(x)


def as_it_is(w):
    return w


class OwnRegularizer(keras.regularizers.Regularizer):
    """Is not registered."""

    def __call__(self, x):
        return 0.1 * ops.sum(ops.square(x))

    def get_config(self):
        return {}


@case
def _arguments_that_cannot_be_serialized():
    x = inputs = keras.Input((5, 4))
    x = layers.Dense(6, kernel_regularizer=OwnRegularizer(), name="a")(x)
    x = layers.LSTM(4, recurrent_activation=own_sigmoid)(x)
    x = layers.Dense(3, bias_constraint=as_it_is)(x)
    return finish(inputs, layers.Dense(2)(x), a=[1])


@keras.saving.register_keras_serializable(package="tests")
class Factor(layers.Layer):
    """Leaves its config to Keras."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor


class BreakTest(parameterized.TestCase):
    def test_a_config_that_keras_records_can_be_saved(self):
        x = inputs = keras.Input((4,))
        x = Factor(3.0)(layers.Dense(5, name="a")(x))
        model = finish(inputs, layers.Dense(2)(x), a=[1])
        small = strip(model)
        again = keras.Model.from_config(small.get_config())
        self.assertEqual(again.layers[2].factor, 3.0)
        self.assertEqual(shapes(strip(small)), shapes(small))

    @parameterized.product(
        kind=(layers.Dropout, layers.AlphaDropout),
        noise=((None, 8), (None, 1), None, (None, 3, 8), (None, 1, 8)),
    )
    def test_the_shape_of_noise_is_cut(self, kind, noise):
        shape = (6,) if noise is None or len(noise) == 2 else (3, 6)
        x = inputs = keras.Input(shape)
        x = layers.Dense(8, name="a")(x)
        x = kind(0.5, noise_shape=noise, name="drop")(x)
        model = keras.Model(inputs, layers.Dense(2)(x))
        for weight in model.get_layer("a").weights:
            array = np.array(ops.convert_to_numpy(weight))
            array[..., ::2] = 0
            weight.assign(array)
        small = strip(model)
        expected = noise and tuple(4 if n == 8 else n for n in noise)
        found = small.get_layer("drop").get_config()["noise_shape"]
        self.assertEqual(found and tuple(found), expected)
        small(np.ones((2, *shape)), training=True)

    def test_masks_do_not_keep_channels(self):
        model = CASES["text_with_masks"]()
        small, report = strip(model, return_report=True)
        self.assertEqual(report.skipped, ())
        self.assertEqual(small.get_layer("g").units, 4)

    def test_records_no_losses_in_the_model(self):
        x = inputs = keras.Input((4,))
        x = layers.Dense(4, name="a")(x)
        x = layers.Activation("sigmoid", activity_regularizer="l2")(x)
        model = finish(inputs, layers.Dense(2)(x), a=[1])
        before = len(model.losses)
        strip(model)
        self.assertLen(model.losses, before)

    @parameterized.parameters(*CASES)
    def test_is_exact(self, name):
        keras.utils.set_random_seed(0)
        model = CASES[name]()
        rng = np.random.default_rng(1)

        def array(x):
            shape = (3, *(n or 7 for n in x.shape[1:]))
            return rng.integers(0, 9, shape).astype(x.dtype)

        x = keras.tree.map_structure(array, model.input)
        x = keras.tree.map_structure(
            lambda a: a - a.mean() if a.dtype.kind == "f" else a, x
        )
        for steps in keras.tree.flatten(x):
            if steps.ndim == 3:
                steps[:, -2:] = 0  # which is what layers mask
        weights = model.get_weights()
        self.assertLess(max_error(model, strip(model), x), 1e-5)
        for old, new in zip(weights, model.get_weights()):
            np.testing.assert_array_equal(old, new)

    @parameterized.parameters(True, False)
    def test_training_inside_a_nested_model(self, nested):
        """Statistics of the batch tell another constant than those learned."""
        norm = layers.BatchNormalization()
        if nested:
            i = keras.Input((6,))
            norm = keras.Model(i, norm(i))
        inputs = keras.Input((4,))
        x = norm(layers.Dense(6, name="a")(inputs), training=True)
        model = finish(inputs, layers.Dense(3)(x), a=[1, 3])
        small = strip(model)
        self.assertEqual(shapes(small), shapes(model))
        x = np.random.default_rng(0).normal(size=(5, 4))
        self.assertLess(max_error(model, small, x), 1e-5)

    def test_data_format_of_the_adapters(self):
        """They follow the layer, not what is the default meanwhile."""
        x = inputs = image()
        x = layers.Conv2D(4, 5, padding="same", name="a")(x)
        model = finish(inputs, x)
        edit(model.get_layer("a").kernel, slice(0, 3))
        keras.config.set_image_data_format("channels_first")
        try:
            small = strip(model)
        finally:
            keras.config.set_image_data_format("channels_last")
        self.assertLess(max_error(model, small, zoo.inputs_of(model)), 1e-5)
        self.assertEqual(tuple(small.get_layer("a").kernel.shape)[:2], (2, 5))

    def test_channels_first(self):
        """The graph only: TensorFlow has no such kernels on a CPU."""
        inputs = keras.Input((3, 7, 7))
        first = {"data_format": "channels_first"}
        x = layers.Conv2D(6, 3, name="a", **first)(inputs)
        x = layers.MaxPooling2D(**first)(
            layers.BatchNormalization(1, name="bn")(x)
        )
        x = layers.Flatten(**first)(x)
        model = finish(inputs, layers.Dense(3, name="fc")(x), a=[1, 3])
        edit(model.get_layer("a").bias, [1, 3])
        edit(model.get_layer("bn").beta, 0)
        small = strip(model)
        # BN makes the two dead channels constant, and Dense folds them.
        self.assertEqual(small.get_layer("a").filters, 4)
        self.assertEqual(
            tuple(small.get_layer("fc").kernel.shape), (2 * 2 * 4, 3)
        )


if __name__ == "__main__":
    absltest.main()
