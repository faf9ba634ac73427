"""Files that the package wrote when it was one folder of modules.

`old_files/` was written by the last commit of then, on TensorFlow: a small
network in the middle of ADMM, its plan and the masks that it was pruned by.
"""

import pathlib
import shutil
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm

ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
FILES = pathlib.Path(__file__).absolute().parent / "old_files"
SHIPPED = sorted((ROOT / "examples" / "results").rglob("small.keras"))


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6, 6, 1)).astype("float32")
    return x, rng.normal(size=(32, 2)).astype("float32")


def expected():
    with np.load(FILES / "expected.npz") as file:
        arrays = {name: file[name] for name in file.files}
    return arrays.pop("y"), [arrays[str(i)] for i in range(len(arrays))]


def network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Flatten(name="flatten"),
            layers.Dense(6, activation="relu", name="hidden"),
            layers.Dense(2, name="out"),
        ],
        name="small",
    )


class OldFilesTest(parameterized.TestCase):
    def assert_is_it(self, model):
        outputs, variables = expected()
        found = model.predict(data()[0], verbose=0)
        np.testing.assert_allclose(found, outputs, atol=1e-5)
        own = model.optimizer.variables
        for variable, array in zip(own, variables, strict=True):
            np.testing.assert_allclose(variable, array, atol=1e-6)

    def test_a_model_in_the_middle_of_admm(self):
        model = keras.saving.load_model(FILES / "admm.keras")
        self.assertIsInstance(model.optimizer, keras_prm.ADMMWrapper)
        self.assert_is_it(model)
        x, y = data()
        model.fit(x, y, batch_size=8, verbose=0)  # and it trains on

    def test_a_checkpoint(self):
        model = network()
        plan = keras_prm.SparsityPlan.load(FILES / "plan.json")
        adam = keras.optimizers.Adam(0.01)
        wrapper = keras_prm.ADMMWrapper(adam, plan, 1e-2, update_every=2)
        model.compile(wrapper, "mse")
        x, y = data()
        options = {"batch_size": 8, "shuffle": False, "verbose": 0}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "admm.ckpt"
            shutil.copy(FILES / "admm.ckpt", path)
            callbacks = [keras_prm.AtomicCheckpoint(path)]
            model.fit(x, y, epochs=2, callbacks=callbacks, **options)
            self.assert_is_it(model)  # all was done
            history = model.fit(x, y, epochs=4, callbacks=callbacks, **options)
            self.assertEqual(history.epoch, [2, 3])

    def test_plan_and_masks(self):
        model = network()
        plan = keras_prm.SparsityPlan.load(FILES / "plan.json")
        again = keras_prm.SparsityPlan.uniform(model, 0.5, 0.25)
        self.assertEqual(plan, again)
        self.assertEqual(plan.digest(), again.digest())
        config = again.get_config()
        config.pop("costs")  # which plans have carried since
        self.assertEqual(plan.get_config(), config)
        with self.assertRaisesRegex(ValueError, "by an earlier version"):
            plan.costs()
        masks = keras_prm.Masks.load(FILES / "masks.npz")
        kept = [int(mask.filters.sum()) for mask in masks.kernels.values()]
        self.assertEqual(kept, [2, 3, 2])

    @parameterized.parameters(*SHIPPED)
    def test_the_shipped_models(self, path):
        model = keras.saving.load_model(path)
        x = np.zeros((2, *model.input_shape[1:]), "float32")
        self.assertTrue(np.isfinite(model.predict(x, verbose=0)).all())

    def test_models_are_shipped(self):
        self.assertNotEmpty(SHIPPED)


if __name__ == "__main__":
    absltest.main()
