"""What a lowering costs: counts that can be checked by hand."""

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.lowering import cost_model
from keras_prm.lowering import methods


def sparse_kernel(mask, filters=16, size=4, **options):
    """A 3x3 convolution on `size x size`, its live columns given."""
    kernel = np.ones((*mask.shape, filters), "float32") * mask[..., None]
    options = {"padding": "same", **options}
    layer = layers.Conv2D(filters, 3, **options)
    return methods.SparseKernel(layer, "kernel", kernel, (size, size))


def two_levels():
    """Three channels: two columns of the first, one of the others, in order."""
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 0] = mask[2, 2, 1] = mask[0, 1, 2] = True
    return sparse_kernel(mask)


def lowering(where, name):
    return {o.name: o for o in methods.candidates(where)}[name]


class OperationsTest(parameterized.TestCase):
    def check(self, name, **expected):
        where = two_levels()
        option = None if name is None else lowering(where, name)
        found = cost_model.operation_counts(where, option)
        counts = {n: found[n] for n in ("convolutions", "slices", "gathers")}
        sizes = {n: v * 1e6 for n, v in found.items() if n not in counts}
        for key, value in {**counts, **sizes}.items():
            self.assertAlmostEqual(value, expected.get(key, 0.0), msg=key)

    def test_dense(self):
        self.check(None, convolutions=1, reads=16 * 27, macs=16 * 27 * 16)

    def test_gather(self):
        """One gather, one depthwise filled up to 16 channels, one product."""
        self.check(
            "columns by gather",
            gathers=1,
            gathered=16 * 4,
            convolutions=2,
            shifts=16 * 16 * 9,
            reads=16 * 4,
            macs=16 * 4 * 16,
        )

    def test_pointwise(self):
        self.check(
            "columns by pointwise",
            convolutions=3,
            shifts=16 * 16 * 9,
            reads=16 * 3 + 16 * 4,
            macs=16 * 3 * 16 + 16 * 4 * 16,
        )

    def test_slices(self):
        """Two levels: all three channels, then the first again."""
        self.check(
            "columns by slices",
            slices=4,
            copied=16 * 4 + 16 * 4,
            convolutions=1 + 2,
            shifts=2 * 16 * 16 * 9,
            reads=16 * 4,
            macs=16 * 4 * 16,
        )

    def test_patches(self):
        """Four positions with one channel each: slices, joined."""
        self.check(
            "columns by patches",
            slices=8,
            copied=16 * 4 + 16 * 3 + 16 * 4,
            convolutions=1,
            reads=16 * 4,
            macs=16 * 4 * 16,
        )


class BytesTest(parameterized.TestCase):
    @parameterized.parameters(
        (None, "float32", 4 * 27 * 16),
        (None, "float16", 2 * 27 * 16),
        (None, "dynamic_range", 4 * 27 * 16),  # of under 1,024 entries
        (None, "int8", 27 * 16),
        # The kernel, the depthwise one, its bias, indices; operations.
        (
            "columns by gather",
            "float32",
            4 * (4 * 16 + 4 * 9 + 4 + 4) + 480 + 420,
        ),
        (
            "columns by pointwise",
            "float32",
            4 * (4 * 16 + 4 * 9 + 4 + 3 * 4 + 4) + 2 * 480,
        ),
        (
            "columns by slices",
            "float32",
            4 * (4 * 16 + 4 * 9 + 4) + 2 * 480 + 4 * 320,
        ),
        ("columns by patches", "float32", 4 * (4 * 16 + 4) + 8 * 320),
        # In int8 each channel of the depthwise one has scales as well.
        (
            "columns by gather",
            "int8",
            4 * 16 + 4 * 9 + 4 * (4 + 24) + 4 * 4 + 560 + 560,
        ),
    )
    def test_columns(self, name, quantize, expected):
        where = two_levels()
        option = None if name is None else lowering(where, name)
        self.assertEqual(
            cost_model.file_bytes(where, option, quantize), expected
        )

    def test_long_names_take_bytes(self):
        where = two_levels()
        longer = methods.SparseKernel(
            where.layer, "twenty/letters/here", where.array, where.space
        )
        option = lowering(where, "columns by gather")
        self.assertEqual(
            cost_model.file_bytes(longer, option)
            - cost_model.file_bytes(where, option),
            2 * 3 * (19 - 11),
        )

    def test_microseconds_are_linear(self):
        model = cost_model.MODELS[1]
        once = cost_model.operation_counts(two_levels())
        twice = {name: 2 * value for name, value in once.items()}
        self.assertAlmostEqual(
            model.microseconds(twice), 2 * model.microseconds(once)
        )


class CandidatesTest(parameterized.TestCase):
    def names(self, where):
        return [option.name for option in methods.candidates(where)]

    def test_no_empty_channel(self):
        self.assertLen(self.names(two_levels()), 4)

    def test_an_empty_channel(self):
        where = two_levels()
        kernel = np.concatenate([where.array, 0 * where.array], axis=-2)
        where = methods.SparseKernel(where.layer, "k", kernel, where.space)
        self.assertLen(self.names(where), 7)

    @parameterized.parameters(
        {"strides": (2, 1)}, {"strides": 2, "dilation_rate": 2}
    )
    def test_what_only_patches_can(self, **options):
        layer = layers.Conv2D(16, 3, padding="same")
        for name, value in options.items():
            value = value if isinstance(value, tuple) else (value, value)
            setattr(layer, name, value)
        kernel = two_levels().array
        where = methods.SparseKernel(layer, "k", kernel, (4, 4))
        self.assertEqual(self.names(where), ["columns by patches"])

    def test_dense_has_no_one_hot_kernel(self):
        kernel = np.ones((5, 3), "float32")
        kernel[2:4] = 0
        where = methods.SparseKernel(layers.Dense(3), "k", kernel, ())
        self.assertEqual(
            self.names(where), ["channels by gather", "channels by slices"]
        )

    def test_nothing_is_empty_or_all(self):
        class Contraction:
            layer = layers.Dense(3)
            source = (None, None)

        for kernel in (np.ones((2, 3)), np.zeros((2, 3))):
            self.assertIsNone(
                methods.sparse_kernel_of([Contraction], "k", kernel)
            )


if __name__ == "__main__":
    absltest.main()
