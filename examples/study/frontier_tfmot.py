r"""Unstructured pruning by tensorflow-model-optimization, for a frontier.

    python3 -m venv .venv-tfmot && .venv-tfmot/bin/pip install \
        tensorflow tf-keras tensorflow-model-optimization scikit-learn
    .venv-tfmot/bin/python -m examples.study.frontier_tfmot --dataset=mnist.npz
    .venv/bin/python -m examples.study.frontier --dataset=mnist.npz \
        --methods=tfmot --known=

In an environment of its own, since that library needs Keras 2. It starts from
the dense networks that `examples.study.frontier` trained, prunes each layer of
a point to as many weights as the point keeps there, wherever they lie, and
writes them where the last command reads them, measures them and adds them to
the table. It takes as many epochs as the other methods up to that point:
sparsity grows along the cubic ramp through the first half of them, and the
learning rate falls from that of dense training to 0 as a cosine. In
float32, since in bfloat16 that library would round the weights themselves.
Biases are not pruned.
"""

import argparse
import os
import pathlib

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from examples.common import image_data
from examples.study import frontier_results
from examples.study import result_files
from examples.study.frontier_recipe import FrontierRecipe

sparsity = tfmot.sparsity.keras


def lenet5(input_shape, num_classes):
    """`networks.lenet5` in Keras 2."""
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.InputLayer(input_shape),
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="fc1"),
            layers.Dense(num_classes, name="logits"),
        ]
    )


def numbers(model, keep):
    """How many weights a point keeps in each layer that it names."""
    return {
        name: (filters or model.get_layer(name).kernel.shape[-1]) * columns
        for name, (filters, columns) in keep.items()
        if columns is not None
    }


def pruned(model, counts, end):
    """The model with the layers that are to be pruned wrapped."""

    def wrap(layer):
        if layer.name not in counts:
            return layer
        share = counts[layer.name] / int(np.prod(layer.kernel.shape))
        return sparsity.prune_low_magnitude(
            layer,
            pruning_schedule=sparsity.PolynomialDecay(
                0.0, 1 - share, 0, end, frequency=max(1, end // 50)
            ),
        )

    return tf_keras.models.clone_model(model, clone_function=wrap)


def dataset(batches):
    """Batches of a `PyDataset`, epoch after epoch, as a `tf.data.Dataset`."""

    def generate():
        for index in range(len(batches)):
            yield batches[index]
        batches.on_epoch_end()

    signature = [
        tf.TensorSpec((None, *part.shape[1:]), part.dtype)
        for part in batches[0]
    ]
    found = tf.data.Dataset.from_generator(
        generate, output_signature=tuple(signature)
    )
    return found.prefetch(2)


def train(recipe, data, weights, point, seed):
    """The weights of one result, as a list of arrays."""
    tf_keras.utils.set_random_seed(seed)
    train = data["train"]
    batches = image_data.RandomShifts(
        train, recipe.batch_size, recipe.shift, seed
    )
    model = lenet5(train.x.shape[1:], len(weights[-1]))
    model.set_weights(weights)
    counts = numbers(model, recipe.points[point])
    epochs = recipe.epochs_to(point)
    steps = epochs * len(batches)
    model = pruned(model, counts, steps // 2)
    rate = tf_keras.optimizers.schedules.CosineDecay(recipe.dense_rate, steps)
    model.compile(
        tf_keras.optimizers.Adam(rate),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        dataset(batches),
        epochs=epochs,
        callbacks=[sparsity.UpdatePruningStep()],
        verbose=2,
    )
    model = sparsity.strip_pruning(model)
    for name, count in counts.items():
        left = np.count_nonzero(model.get_layer(name).kernel)
        if left > count:
            raise RuntimeError(f"{name} keeps {left} weights, not {count}.")
    return model.get_weights()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True)
    recipe = (
        pathlib.Path(__file__).parent.with_name("recipes") / "lenet5_mnist.json"
    )
    parser.add_argument("--recipe", default=recipe)
    parser.add_argument("--output_dir", default="runs/frontier")
    parser.add_argument("--points", default="", help="Default: all.")
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    recipe = FrontierRecipe.load(args.recipe)
    for seed in map(int, args.seeds.split(",")):
        data = image_data.load(args.dataset, seed)
        folder = pathlib.Path(args.output_dir)
        points = [point for point in args.points.split(",") if point]
        for point in points or recipe.points:
            make(recipe, data, folder, point, seed)


def make(recipe, data, folder, point, seed):
    """Writes the weights of one result, unless they are there."""
    results = frontier_results.Results(recipe, data, folder, seed)
    settings = results.settings("tfmot", point)
    path = results.path("tfmot", point)
    if result_files.is_done(path, settings, "settings.json"):
        return
    dense = results.path("dense", "-") / "weights.npz"
    if not dense.exists():
        raise SystemExit(
            f"There is no {dense}. Train the dense networks first, by "
            "`python -m examples.study.frontier`."
        )
    weights = [*result_files.read_arrays(dense).values()]
    weights = train(recipe, data, weights, point, seed)
    path.mkdir(parents=True, exist_ok=True)
    (path / "settings.json").unlink(missing_ok=True)
    np.savez(path / "weights.npz", *weights)
    result_files.write_json(path / "settings.json", {"settings": settings})
    print(f"tfmot {point} seed {seed}: done", flush=True)


if __name__ == "__main__":
    main()
