"""Models for the rules of single kinds of layers; `zoo.MODELS` lists them."""

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_prm.lowering.gather_columns import GatherColumns

ELEMENTWISE = (
    "abs ceil celu cos elu erf exp expm1 floor gelu hard_sigmoid hard_silu "
    "hard_tanh leaky_relu log1p log_sigmoid negative relu relu6 round selu "
    "sigmoid sign silu sin softplus softsign sqrt square stop_gradient tanh"
).split()
COMPARISONS = "equal not_equal greater greater_equal less less_equal".split()


def _head(inputs, x, units=3):
    return keras.Model(inputs, layers.Dense(units, name="out")(x))


def windows_1d():
    x = inputs = keras.Input((12, 4))
    x = layers.Conv1D(8, 3, strides=2, padding="same", name="a")(x)
    x = layers.Conv1D(8, 3, groups=2, padding="same", name="g")(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, name="dw")(x)
    x = layers.SeparableConv1D(6, 2, depth_multiplier=2, name="sep")(x)
    x = layers.Conv1DTranspose(5, 3, strides=2, name="t")(x)
    x = layers.AveragePooling1D(2)(x)
    x = layers.PReLU(name="prelu")(x)
    return _head(inputs, layers.GlobalMaxPooling1D()(x))


def windows_3d():
    x = inputs = keras.Input((6, 5, 4, 2))
    x = layers.Conv3D(6, 3, padding="same", activation="relu", name="a")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv3D(4, 2, strides=2, name="b")(x)
    x = layers.Conv3DTranspose(5, 2, strides=2, padding="same", name="t")(x)
    x = layers.ZeroPadding3D(1)(x)
    x = layers.Cropping3D(((0, 1), (1, 0), (1, 1)))(x)
    x = layers.AveragePooling3D(2)(layers.UpSampling3D(2)(x))
    x = layers.MaxPooling3D(2, padding="same")(x)
    x = layers.Conv3D(4, 1, groups=1, dilation_rate=1, name="c")(x)
    return _head(inputs, layers.GlobalAveragePooling3D()(x))


def unet():
    def double(x, filters, name):
        for i in range(2):
            x = layers.Conv2D(
                filters, 3, padding="same", use_bias=False, name=f"{name}{i}"
            )(x)
            x = layers.BatchNormalization(name=f"{name}bn{i}")(x)
            x = layers.ReLU()(x)
        return x

    inputs = keras.Input((8, 8, 3))
    a = double(inputs, 4, "a")
    b = double(layers.MaxPooling2D()(a), 6, "b")
    x = double(layers.MaxPooling2D()(b), 8, "c")
    x = layers.Conv2DTranspose(6, 2, strides=2, name="up1")(x)
    x = double(layers.Concatenate()([x, b]), 6, "d")
    x = layers.Conv2DTranspose(
        4, 3, strides=2, padding="same", use_bias=False, name="up2"
    )(x)
    x = double(layers.Concatenate()([x, a]), 4, "e")
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def dilated():
    x = inputs = keras.Input((12, 11, 3))
    x = layers.Conv2D(6, 3, dilation_rate=2, activation="relu", name="a")(x)
    x = layers.Conv2D(6, 3, dilation_rate=2, padding="same", name="b")(x)
    x = layers.Conv2D(8, (3, 2), strides=(2, 1), groups=2, name="g")(x)
    x = layers.DepthwiseConv2D(2, dilation_rate=2, name="dw")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def dense_of_any_rank():
    x = inputs = keras.Input((3, 4, 5))
    x = layers.Dense(6, activation="relu", name="a")(x)
    x = layers.EinsumDense(
        "abcd,de->abce", (3, 4, 7), bias_axes="e", name="e1"
    )(x)
    x = layers.EinsumDense(
        "abcd,dhk->abchk", (3, 4, 2, 6), bias_axes="hk", name="e2"
    )(x)
    x = layers.Activation("tanh")(x)
    x = layers.EinsumDense("abchk,hkm->abcm", (3, 4, 5), name="e3")(x)
    return _head(inputs, layers.Flatten()(x))


def embedding():
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(11, 8, name="words")(inputs)
    y = layers.Embedding(11, 8, name="other")(inputs)
    x = layers.Dense(6, activation="relu", name="a")(x + y)
    return _head(inputs, layers.GlobalAveragePooling1D()(x))


def group_norms():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(x)
    x = layers.GroupNormalization(4, name="gn")(x)
    x = layers.Conv2D(6, 1, name="b")(layers.ReLU()(x))
    x = layers.GroupNormalization(-1, scale=False, name="instance")(x)
    x = layers.Conv2D(6, 1, name="c")(x)
    x = layers.GroupNormalization(3, center=False, name="gn3")(x)
    x = layers.Conv2D(4, 1, name="d")(x)
    x = layers.GroupNormalization(1, name="all")(x)
    return keras.Model(inputs, layers.Conv2D(2, 3, name="out")(x))


def norms():
    x = inputs = keras.Input((5, 4))
    for i, norm in enumerate(
        (
            layers.LayerNormalization(name="ln"),
            layers.RMSNormalization(name="rms"),
            layers.UnitNormalization(name="unit"),
        )
    ):
        y = layers.Dense(8, activation="gelu", name=f"a{i}")(norm(x))
        x = layers.Add()([x, layers.Dense(4, name=f"b{i}")(y)])
    x = layers.BatchNormalization(scale=False, name="bn0")(x)
    x = layers.EinsumDense("...x,xy->...y", 5, bias_axes="y", name="c")(x)
    x = layers.BatchNormalization(center=False, name="bn1")(x)
    return _head(inputs, layers.GlobalAveragePooling1D()(x))


def prelus():
    x = inputs = keras.Input((5, 6, 3))
    x = layers.Conv2D(6, 3, padding="same", name="a")(x)
    x = layers.PReLU(name="whole")(x)
    x = layers.Conv2D(5, 1, name="b")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="by_channel")(x)
    x = layers.Conv2D(4, 1, name="c")(x)
    x = layers.PReLU(shared_axes=[1, 2, 3], name="one")(x)
    x = layers.Flatten()(x)
    x = layers.PReLU()(layers.Dense(6, name="d")(x))
    return _head(inputs, x)


def activations():
    x = inputs = keras.Input((6,))
    layers_of_it = [
        layers.ReLU(threshold=0.1, negative_slope=0.2, max_value=4.0),
        layers.LeakyReLU(0.2),
        layers.ELU(0.7),
        layers.Softmax(),
        *map(
            layers.Activation,
            ("gelu", "silu", "selu", "mish", "hard_silu", "softplus"),
        ),
    ]
    for i, layer in enumerate(layers_of_it):
        x = layer(layers.Dense(6, name=f"d{i}")(x))
    return _head(inputs, x)


def pools():
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(x)
    x = layers.MaxPooling2D(3, strides=1, padding="same")(x)
    x = layers.AdaptiveAveragePooling2D((6, 5))(x)
    x = layers.Conv2D(6, 1, name="b")(x)
    x = layers.Resizing(8, 8, interpolation="bilinear")(x)
    x = layers.Conv2D(6, 1, name="c")(x)
    x = layers.Resizing(6, 8, pad_to_aspect_ratio=True, fill_value=0.5)(x)
    x = layers.Conv2D(5, 1, name="d")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.AdaptiveMaxPooling2D(3)(x)
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    z = layers.GlobalMaxPooling2D()(x)
    x = layers.Concatenate()([layers.Flatten()(y), z])
    return _head(inputs, x)


def preprocessing():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Rescaling(1 / 255.0, offset=-0.5)(x)
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1, 2, 3])(x)
    x = layers.Conv2D(6, 3, name="a")(x)
    x = layers.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])(x)
    x = layers.Conv2D(6, 1, name="b")(x)
    x = layers.Rescaling(2.0, offset=1.0)(x)
    x = layers.SpatialDropout2D(0.1)(layers.GaussianDropout(0.1)(x))
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def products_of_tensors():
    u, v = keras.Input((5, 4), name="u"), keras.Input((6, 4), name="v")
    x = layers.Dense(8, name="a")(u)
    y = layers.Dense(8, name="b")(v)
    scores = layers.Dot(axes=(2, 2))([x, y])
    z = ops.matmul(scores, layers.Dense(7, name="c")(v))
    w = layers.RepeatVector(5)(layers.Dense(7, name="d")(u[:, 0]))
    x = layers.Dense(4, name="e")(z * w)
    return keras.Model([u, v], layers.Dense(2, name="out")(x))


def slices():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(x)
    y = x[:, 1:-1, 1:-1, 2:7]
    a, b = ops.split(layers.Conv2D(6, 1, name="b")(y), 2, axis=-1)
    c, d, e = ops.split(x, [3, 5], axis=-1)
    x = ops.concatenate([a * b, c[:, :6, 2:]], axis=-1)
    x = layers.Conv2D(6, 1, name="c")(x)
    d = d[:, ::2, ::2][:, :1, :1] + x[..., :2] * e[:, 2:, 2:, -2:]
    x = ops.concatenate([x, x[..., ::2], d], axis=-1)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def shapes_by_operators():
    x = inputs = keras.Input((6, 4, 3))
    x = layers.Conv2D(8, 1, name="a")(x)
    y = ops.mean(x, axis=(1, 2), keepdims=True)
    y = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(y)
    x = ops.relu(x * y)
    x = ops.reshape(x, (-1, 24, 8))
    x = layers.Dense(6, name="b")(x)
    x = ops.transpose(x, (0, 2, 1))
    x = ops.swapaxes(x, 1, -1)
    x = ops.squeeze(ops.expand_dims(x, 1), 1)
    x = ops.moveaxis(ops.pad(x, [[0, 0], [1, 1], [0, 0]]), 1, 2)
    x = ops.max(x, axis=2) + ops.sum(x, axis=-1)
    x = layers.Dense(6, name="c")(x)
    z = ops.sum(ops.relu(x), axis=-1, keepdims=True)
    return _head(inputs, ops.concatenate([x, z / 3.0], axis=-1))


def constant_vectors():
    x = inputs = keras.Input((6, 5))
    x = layers.Dense(8, name="a")(x)
    x = x * np.linspace(-1, 1, 8, dtype="float32") + np.ones(8, "float32")
    x = layers.Dense(6, name="b")(x)
    x = ops.subtract(np.arange(6, dtype="float32"), x)
    x = ops.maximum(x, np.linspace(0, 1, 36).reshape(6, 6).astype("float32"))
    x = ops.clip(layers.Dense(7, name="c")(x), -1.0, 1.0)
    x = x / np.arange(1, 8, dtype="float32")
    return _head(inputs, ops.mean(x**2, axis=1))


def squeeze_and_excitation():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(x)
    x = layers.Activation("silu")(layers.BatchNormalization(name="bn")(x))
    g = layers.GlobalAveragePooling2D()(x)
    g = layers.Reshape((1, 1, 8))(g)
    g = layers.Conv2D(4, 1, activation="silu", name="s")(g)
    g = layers.Conv2D(8, 1, activation="sigmoid", name="e")(g)
    x = layers.multiply([x, g])
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def recurrent():
    x = inputs = keras.Input((5, 4))
    x = layers.Dense(6, name="a")(x)
    x = layers.LSTM(6, return_sequences=True, name="lstm")(x)
    x = layers.GRU(5, return_sequences=True, name="gru")(x)
    x = layers.GRU(5, return_sequences=True, reset_after=False, name="old_gru")(
        x
    )
    x = layers.SimpleRNN(6, return_sequences=True, name="rnn")(x)
    x, h, c = layers.LSTM(5, return_state=True, name="last")(x)
    return _head(inputs, layers.Concatenate()([x, h + c]))


def bidirectional():
    x = inputs = keras.Input((5, 4))
    x = layers.Dense(6, name="a")(x)
    x = layers.Bidirectional(
        layers.LSTM(4, return_sequences=True), name="lstm"
    )(x)
    x = layers.Dense(5, name="b")(x)
    x = layers.Bidirectional(layers.GRU(4), merge_mode="sum", name="gru")(x)
    x, y = layers.Bidirectional(layers.SimpleRNN(3), merge_mode=None)(
        layers.RepeatVector(3)(x)
    )
    return _head(inputs, x * y)


def time_distributed():
    i = keras.Input((4, 4, 5))
    y = layers.Conv2D(6, 3, padding="same", name="inner")(i)
    y = layers.BatchNormalization()(y)
    body = keras.Model(i, layers.GlobalAveragePooling2D()(y), name="body")
    x = inputs = keras.Input((3, 4, 4, 2))
    x = layers.TimeDistributed(layers.Conv2D(5, 3, padding="same"))(x)
    x = layers.TimeDistributed(layers.ReLU())(x)
    x = layers.TimeDistributed(body)(x)
    x = layers.TimeDistributed(layers.Dense(6, activation="relu"))(x)
    return _head(inputs, layers.Flatten()(x))


def attention():
    x = inputs = keras.Input((6, 5))
    x = layers.Dense(8, name="a")(x)
    y = layers.MultiHeadAttention(4, 3, value_dim=5, name="self")(x, x)
    x = layers.Add()([x, y])
    x = layers.Dense(7, name="b")(x)
    z = layers.MultiHeadAttention(2, 4, output_shape=6, name="cross")(
        query=x, value=y, key=y, use_causal_mask=True
    )
    x = layers.Dense(6, name="c")(z)
    y = layers.GroupQueryAttention(4, 6, 3, name="grouped")(x, x)
    return _head(inputs, layers.GlobalAveragePooling1D()(x + y))


def transformer():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8, name="tokens")(inputs)
    for i in range(2):
        y = layers.LayerNormalization(name=f"ln{i}a")(x)
        y = layers.MultiHeadAttention(2, 4, dropout=0.1, name=f"mha{i}")(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(name=f"ln{i}b")(x)
        y = layers.Dense(16, activation="gelu", name=f"up{i}")(y)
        x = layers.Add()([x, layers.Dense(8, name=f"down{i}")(y)])
    return _head(inputs, x[:, 0])


def quiet_layers():
    """Layers that change channels nowhere, on three ranks."""
    inputs = keras.Input((4, 4, 6, 3))
    x = layers.Conv3D(6, 1, name="a")(inputs)
    x = layers.SpatialDropout3D(0.1)(layers.Identity()(x))
    x = layers.AdaptiveMaxPooling3D(3)(layers.AdaptiveAveragePooling3D(4)(x))
    y = layers.GlobalMaxPooling3D()(x)
    x = layers.Reshape((9, 3, 6))(x)
    x = layers.Reshape((27, 6))(layers.Dropout(0.1)(x))
    x = layers.AdaptiveMaxPooling1D(6)(layers.AdaptiveAveragePooling1D(9)(x))
    x = layers.SpatialDropout1D(0.1)(layers.Dense(5, name="b")(x))
    x = layers.ActivityRegularization(0.0)(layers.AlphaDropout(0.1)(x))
    x = layers.GaussianNoise(0.1)(x)
    x = layers.GlobalMaxPooling1D()(x)
    return _head(inputs, layers.Concatenate()([x, y]))


def elementwise_operators():
    x = inputs = keras.Input((6,))
    terms = []
    for i, name in enumerate(ELEMENTWISE):
        y = layers.Dense(3, name=f"d{i}")(x)
        y = ops.abs(y) if name in ("sqrt", "log1p") else y
        terms.append(getattr(ops, name)(y))
    y = ops.square(layers.Dense(3, name="positive")(x)) + 0.5
    terms += [ops.log(y), ops.rsqrt(y), ops.reciprocal(y), ops.divide(1.0, y)]
    for i, name in enumerate(COMPARISONS):
        y = getattr(ops, name)(layers.Dense(3, name=f"c{i}")(x), 0.25)
        terms.append(ops.cast(y, "float32"))
    y = layers.Reshape((3, 2))(layers.Dense(6, name="r")(x))
    terms += [f(y, axis=2) for f in (ops.min, ops.amin, ops.amax)]
    return _head(inputs, ops.concatenate(terms, axis=-1))


def detector():
    """Heads on three scales that share their layers, and a backbone inside."""
    i = keras.Input((16, 16, 3))
    x, maps = i, []
    for n, filters in enumerate((4, 6, 8)):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", name=f"c{n}")(
            x
        )
        x = layers.ReLU()(layers.BatchNormalization(name=f"bn{n}")(x))
        maps.append(x)
    backbone = keras.Model(i, maps, name="backbone")
    u = keras.Input((16, 16, 3), name="image")
    v = keras.Input((4,), name="meta")
    boxes, scores = [], []
    tower = layers.Conv2D(6, 3, padding="same", activation="relu", name="tower")
    box = layers.Conv2D(4, 1, name="box")
    score = layers.Conv2D(2, 1, activation="softmax", name="score")
    meta = layers.Reshape((1, 1, 5))(layers.Dense(5, name="meta_dense")(v))
    for n, x in enumerate(backbone(u)):
        x = layers.Conv2D(5, 1, name=f"lateral{n}")(x) + meta
        x = tower(x)
        boxes.append(layers.Reshape((-1, 4))(box(x)))
        scores.append(layers.Reshape((-1, 2))(score(x)))
    outputs = {
        "boxes": layers.Concatenate(axis=1)(boxes),
        "scores": layers.Concatenate(axis=1)(scores),
    }
    return keras.Model({"image": u, "meta": v}, outputs)


def gathered_columns():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(5, 3, padding="same", name="a")(x)
    columns = [0, 6, 23, 44, 4, 21, 12]
    x = GatherColumns(columns, (3, 3), padding="same", method="slices")(x)
    x = layers.Conv2D(4, 1, activation="relu", name="b")(x)
    x = layers.Flatten()(x)
    x = GatherColumns([3, 2, 50, 51, 52, 97], name="features")(x)
    return _head(inputs, x)


MODELS = (
    gathered_columns,
    windows_1d,
    windows_3d,
    unet,
    dilated,
    dense_of_any_rank,
    embedding,
    group_norms,
    norms,
    prelus,
    activations,
    pools,
    preprocessing,
    products_of_tensors,
    slices,
    shapes_by_operators,
    constant_vectors,
    squeeze_and_excitation,
    recurrent,
    bidirectional,
    time_distributed,
    attention,
    transformer,
    detector,
    quiet_layers,
    elementwise_operators,
)
