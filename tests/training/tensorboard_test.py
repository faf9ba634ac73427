import io
import os
import subprocess
import sys
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.training import progress
from keras_prm.training.structured_mask import StructuredMask
from keras_prm.training.tensorboard import SparsityTensorBoard
from keras_prm.training.tensorboard import mask_picture
from keras_prm.utils.kernel_layout import to_matrix
from tests.helpers import zoo

# JAX is slow without, TensorFlow with it.
JIT = keras.backend.backend() == "jax"

WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
import keras
import numpy as np
import keras_prm

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
model.compile("sgd", "mse")
board = keras_prm.SparsityTensorBoard(sys.argv[1])
model.fit(np.ones((4, 4)), np.ones((4, 3)), verbose=0, callbacks=[board])
"""


def make():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(6, 3, activation="relu", name="conv"),
            layers.Conv2DTranspose(5, 2, name="up"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, name="out"),
        ]
    )
    zoo.randomize(model)
    return model


def train(model, *callbacks, **kwargs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 6, 6, 2)).astype("float32")
    y = rng.normal(size=(16, 3)).astype("float32")
    kwargs = {"batch_size": 8, "verbose": 0, "shuffle": False} | kwargs
    return model.fit(x, y, callbacks=[*callbacks], **kwargs)


def read(folder):
    """dict from tag to the list of `(step, scalar or pixels)`."""
    from PIL import Image
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(
        folder, {"scalars": 0, "images": 0}
    )
    events.Reload()
    tags = events.Tags()
    scalars = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)]
        for tag in tags["scalars"]
    }
    images = {}
    for tag in tags["images"]:
        images[tag] = [
            (e.step, np.array(Image.open(io.BytesIO(e.encoded_image_string))))
            for e in events.Images(tag)
        ]
        for (_, pixels), event in zip(images[tag], events.Images(tag)):
            assert pixels.shape == (event.height, event.width)
    return scalars, images


class SparsityTensorBoardTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def assert_is_mask(self, pixels, mask):
        """Each entry of the mask is a rectangle of black or white."""
        height, width = (p // m for p, m in zip(pixels.shape, mask.shape))
        enlarged = np.kron(mask, np.ones((height, width), bool))
        np.testing.assert_array_equal(pixels, np.where(enlarged, 0, 255))

    def test_admm(self):
        model = make()
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        wrapper = ADMMWrapper("adam", plan, rho=0.5, update_every=2)
        model.compile(wrapper, "mse", jit_compile=JIT)
        train(model, SparsityTensorBoard(self.folder), epochs=3)
        scalars, images = read(self.folder)
        last = {tag: values[-1][1] for tag, values in scalars.items()}
        for tag, values in (scalars | images).items():
            self.assertEqual([step for step, _ in values], [0, 1, 2], tag)
        for name, value in progress.scalars(wrapper).items():
            self.assertAlmostEqual(last.pop(name), value, places=5)
        self.assertEqual(last.pop("rho"), 0.5)
        masks = wrapper.masks()
        self.assertCountEqual(images, [f"masks/{key}" for key in masks])
        for key, mask in masks.items():
            self.assertEqual(
                last.pop(f"live_filters/{key}"), mask.filters.sum()
            )
            self.assertEqual(
                last.pop(f"live_columns/{key}"), mask.columns.sum()
            )
            full = to_matrix(mask.full(), mask.axes)
            full = full.reshape(-1, full.shape[-1]).T
            self.assertFalse(full.all())
            self.assert_is_mask(images[f"masks/{key}"][-1][1], full)
        self.assertEmpty(last)

    def test_residuals_are_those_of_the_wrapper(self):
        model = make()
        plan = SparsityPlan.uniform(model, filters=0.5)
        wrapper = ADMMWrapper("adam", plan, update_every=2)
        model.compile(wrapper, "mse", jit_compile=JIT)
        train(model, SparsityTensorBoard(self.folder), epochs=1)
        scalars, _ = read(self.folder)
        for kernel in plan.kernels:
            residual = wrapper.residuals()[kernel.key]
            norm = np.linalg.norm(
                keras.ops.convert_to_numpy(
                    model.trainable_variables[kernel.index]
                )
            )
            (_, primal), *_ = scalars[f"primal_residual/{kernel.key}"]
            (_, dual), *_ = scalars[f"dual_residual/{kernel.key}"]
            self.assertGreater(primal, 0.0)
            self.assertAlmostEqual(primal * norm, residual["primal"], places=5)
            self.assertAlmostEqual(dual, residual["dual"], places=5)

    def test_masked_model(self):
        model = make()
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        masks = hard_prune(model, plan)
        model.compile("adam", "mse", jit_compile=JIT)
        train(model, StructuredMask(masks), SparsityTensorBoard(self.folder))
        scalars, images = read(self.folder)
        keys = ["conv/kernel", "up/kernel", "out/kernel"]
        self.assertCountEqual(
            scalars,
            [
                f"live_{what}/{k}"
                for k in keys
                for what in ("filters", "columns")
            ],
        )
        self.assertCountEqual(images, [f"masks/{key}" for key in keys])
        for key, mask in masks.kernels.items():
            ((_, filters),) = scalars[f"live_filters/{key}"]
            ((_, columns),) = scalars[f"live_columns/{key}"]
            self.assertEqual(filters, mask.filters.sum())
            self.assertEqual(columns, mask.columns.sum())
            full = to_matrix(mask.full(), mask.axes)
            full = full.reshape(-1, full.shape[-1]).T
            self.assert_is_mask(images[f"masks/{key}"][0][1], full)

    def test_distiller(self):
        student, teacher = make(), make()
        plan = SparsityPlan.uniform(student, filters=0.5)
        distiller = keras.distillation.Distiller(
            teacher=teacher,
            student=student,
            distillation_losses=keras.distillation.LogitsDistillation(),
        )
        for optimizer, tag in (
            (ADMMWrapper("adam", plan), "rho"),
            ("adam", "live_filters/conv/kernel"),
        ):
            distiller.compile(optimizer, "mse", jit_compile=JIT)
            folder = os.path.join(self.folder, tag.replace("/", "_"))
            train(distiller, SparsityTensorBoard(folder, images_every=0))
            self.assertIn(tag, read(folder)[0])

    @parameterized.parameters((0, []), (2, [0, 2]), (3, [0]))
    def test_some_epochs_have_images(self, images_every, expected):
        model = make()
        model.compile("sgd", "mse", jit_compile=JIT)
        board = SparsityTensorBoard(self.folder, images_every=images_every)
        train(model, board, epochs=3)
        scalars, images = read(self.folder)
        steps = [step for step, _ in images.get("masks/out/kernel", ())]
        self.assertEqual(steps, expected)
        self.assertLen(scalars["live_filters/out/kernel"], 3)

    def test_goes_on_in_another_fit_after_an_interrupted_one(self):
        class Interrupt(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 1:
                    raise KeyboardInterrupt

        model = make()
        model.compile("sgd", "mse", jit_compile=JIT)
        board = SparsityTensorBoard(self.folder)
        with self.assertRaises(KeyboardInterrupt):
            train(model, board, Interrupt(), epochs=2)
        # What was written can be read before anybody closes the file.
        self.assertLen(read(self.folder)[0]["live_filters/out/kernel"], 1)
        train(model, board, initial_epoch=1, epochs=3)
        steps = [s for s, _ in read(self.folder)[0]["live_filters/out/kernel"]]
        self.assertEqual(steps, [0, 1, 2])

    def test_tensorflow_is_not_needed(self):
        if keras.backend.backend() == "tensorflow":
            self.skipTest("This backend is TensorFlow.")
        subprocess.run(
            [sys.executable, "-c", WITHOUT_TENSORFLOW, self.folder], check=True
        )
        self.assertIn("live_filters/dense/kernel", read(self.folder)[0])

    def test_says_how_to_install_tensorboard(self):
        gone = {"tensorboard.summary.writer": None}
        with mock.patch.dict(sys.modules, gone):
            with self.assertRaisesRegex(
                ImportError, r'pip install "keras-prm\[tensorboard\]"'
            ):
                SparsityTensorBoard(self.folder)

    @parameterized.parameters(-1, 1.5, True, None)
    def test_images_every_must_count_epochs(self, images_every):
        with self.assertRaisesRegex(ValueError, "0 for none"):
            SparsityTensorBoard(self.folder, images_every=images_every)


class PictureTest(parameterized.TestCase):
    def test_small_masks_are_enlarged(self):
        pixels = mask_picture(
            np.array([[True, False, True], [False, True, True]])
        )
        self.assertEqual(pixels.shape, (256, 255))
        self.assertEqual(pixels.dtype, np.uint8)
        np.testing.assert_array_equal(
            pixels[::128, ::85], [[0, 255, 0], [255, 0, 0]]
        )

    def test_sizes_in_between_stay(self):
        mask = np.random.default_rng(0).random((300, 1024)) < 0.5
        np.testing.assert_array_equal(
            mask_picture(mask), np.where(mask, 0, 255)
        )

    def test_large_masks_are_pooled(self):
        mask = np.zeros((256, 3001), bool)
        mask[0, :3] = True
        mask[0, 3] = True
        mask[0, 3000] = True
        pixels = mask_picture(mask)
        self.assertEqual(pixels.shape, (256, 1001))
        self.assertEqual(list(pixels[0, :3]), [0, 170, 255])
        # The last pixel stands for one weight only.
        self.assertEqual(pixels[0, 1000], 0)
        self.assertTrue((pixels[1:] == 255).all())

    def test_both_sides_are_pooled(self):
        mask = np.zeros((2048, 2048), bool)
        mask[0, :2] = True
        pixels = mask_picture(mask)
        self.assertEqual(pixels.shape, (1024, 1024))
        self.assertEqual(pixels[0, 0], 128)


if __name__ == "__main__":
    absltest.main()
