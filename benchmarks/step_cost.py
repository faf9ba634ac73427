"""What ADMMWrapper adds to a training step, on this Keras backend.

    KERAS_BACKEND=jax python -m benchmarks.step_cost --model=resnet18

Copies of one model are trained on the same batches, one step of each in
turn: two groups with the bare optimizer, one with `ADMMWrapper` around it,
and one whose wrapper updates Z and U at each step. Where a copy happens to
lie in memory moves its time by some per cent, so each group has several, and
a group's time is the mean over them. The ratio of the two bare groups is the
floor: what the machine alone makes of equal work.

* `step` is a step without an update: the median ratio to the bare group,
  with a bootstrap interval of 95 %.
* `amortised` adds one update in `--update_every` steps to that median.
* `update` is the update itself, per million planned weights.
* `memory` is what the wrapper stores, in planned weights.
"""

import math
import os
import platform

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_prm
from benchmarks import step_models
from benchmarks import step_timing

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "lenet5", list(step_models.SHAPES), "The model.")
flags.DEFINE_integer("copies", 5, "Models in each group.")
flags.DEFINE_integer("rounds", 200, "Rounds that are timed.")
flags.DEFINE_integer("warmup", 20, "Rounds before them.")
flags.DEFINE_integer("update_every", 100, "Steps between updates of Z and U.")
flags.DEFINE_enum("optimizer", "adam", ["adam", "sgd"], "The inner optimizer.")
flags.DEFINE_enum("jit", "both", ["both", "on", "off"], "XLA, or compile().")
flags.DEFINE_integer("seed", 0, "Seed of weights and data.")

KINDS = ("bare", "bare again", "ADMM", "updating")


def optimizer(kind, model):
    """The bare optimizer, or the wrapper around it."""
    inner = (
        keras.optimizers.Adam(1e-3)
        if FLAGS.optimizer == "adam"
        else keras.optimizers.SGD(1e-2, momentum=0.9)
    )
    if kind not in ("ADMM", "updating"):
        return inner
    plan = keras_prm.SparsityPlan.uniform(model, filters=0.5, columns=0.5)
    every = 1 if kind == "updating" else 10**9
    return keras_prm.ADMMWrapper(inner, plan, update_every=every)


def compiled(kind, jit_compile):
    keras.utils.set_random_seed(FLAGS.seed)
    model = step_models.make(FLAGS.model, keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(kind, model), loss=loss, jit_compile=jit_compile)
    return model


def planned_weights(wrapper):
    return sum(math.prod(kernel.shape) for kernel in wrapper.plan.kernels)


def memory(wrapper):
    """Numbers that the wrapper stores itself, per planned weight."""
    own = [v for v in wrapper.variables if not _is_inner(wrapper, v)]
    return sum(math.prod(v.shape) for v in own) / planned_weights(wrapper)


def _is_inner(wrapper, variable):
    return any(variable is v for v in wrapper.inner_optimizer.variables)


def measure(jit_compile, rng):
    """Prints one line for one way of compiling."""
    models = [compiled(k, jit_compile) for k in KINDS * FLAGS.copies]
    data = step_timing.batches(
        step_models.SHAPES[FLAGS.model],
        step_models.BATCH_SIZES[FLAGS.model],
        rng,
    )
    times = step_timing.seconds(
        [m.train_on_batch for m in models], data, FLAGS.rounds, FLAGS.warmup
    )
    times = step_timing.groups(times, len(KINDS))
    floor, *_ = step_timing.ratio(times, 1, 0, rng)
    step, low, high = step_timing.ratio(times, 2, 0, rng)
    bare = np.median(times[:, 0])
    update = np.median(times[:, 3] - times[:, 2])
    wrapper = models[2].optimizer
    millions = planned_weights(wrapper) / 1e6
    print(
        f"{FLAGS.model:8}  {keras.backend.backend():10}  {jit_compile!s:5}  "
        f"{1e3 * bare:8.2f}  {floor:.3f}  {step:.3f}  {low:.3f} - {high:.3f}  "
        f"{step + update / FLAGS.update_every / bare:9.3f}  "
        f"{1e3 * update / millions:9.2f}  {memory(wrapper):7.4f}",
        flush=True,
    )


def main(argv):
    del argv
    rng = np.random.default_rng(FLAGS.seed)
    print(
        f"Batch {step_models.BATCH_SIZES[FLAGS.model]}, {FLAGS.optimizer}, "
        f"seed {FLAGS.seed}, {FLAGS.copies} copies, {FLAGS.rounds} rounds, "
        f"{platform.machine()} with {os.cpu_count()} cores"
    )
    print(
        "model     backend     jit     ms/step  floor   step  95 % interval  "
        "amortised  ms/update  memory"
    )
    torch = keras.backend.backend() == "torch"
    ways = {"on": [True], "off": [False], "both": [False, True]}[FLAGS.jit]
    for jit_compile in [False] if torch else ways:
        measure(jit_compile, rng)


if __name__ == "__main__":
    app.run(main)
