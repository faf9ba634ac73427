import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import ops

from keras_prm.utils import kernel_layout


class LayoutsTest(parameterized.TestCase):
    @parameterized.parameters(
        ((3, 3, 4, 5), (-2, -1), (3, 3, 4, 5)),
        ((3, 3, 5, 4), (-1, -2), (3, 3, 4, 5)),  # transposed convolution
        ((8, 2, 3), (-3, -2), (3, 8, 2)),  # query: inputs, heads, dims
        ((2, 3, 8), (-3, -1), (3, 2, 8)),  # output: heads, dims, outputs
    )
    def test_there_and_back(self, shape, axes, matrix_shape):
        kernel = np.arange(np.prod(shape)).reshape(shape)
        matrix = kernel_layout.to_matrix(kernel, axes)
        self.assertEqual(matrix.shape, matrix_shape)
        np.testing.assert_array_equal(
            kernel_layout.from_matrix(matrix, axes), kernel
        )
        tensor = kernel_layout.to_matrix(ops.convert_to_tensor(kernel), axes)
        np.testing.assert_array_equal(ops.convert_to_numpy(tensor), matrix)


if __name__ == "__main__":
    absltest.main()
