"""Ways from a trained network to a sparse one."""

import keras
import numpy as np

import keras_prm
from examples.study import model_forms
from examples.study import result_files
from examples.study.phase_recipe import WAYS as NAMES


def by_admm(work, point, start):
    """W is drawn to the plan's set, and pruned to it.

    Args:
        work: The `PhaseWork`.
        point: Name of the point.
        start: The network to start from; not changed.

    Returns:
        Pairs of what was done and the network after it.
    """
    admm = work.recipe.points[point].admm
    model, whole = work.for_training(start, admm)
    plan = work.recipe.plan(model, point)
    print(plan, flush=True)
    wrapper = work.trainer.admm(
        work.trainer.sgd(admm, admm.rate),
        plan,
        work.trainer.by_epoch(admm.rho, admm.growth),
    )
    work.trainer.fit(
        whole,
        wrapper,
        admm,
        work.folder / point / "admm",
        [keras_prm.ADMMProgress()],
        work.answers(),
    )
    driven = model_forms.as_kept(model)
    keras_prm.hard_prune(model, plan, optimizer=wrapper)
    return [("ADMM", driven), ("pruned", model_forms.as_kept(model))]


def by_magnitude(work, point, start):
    """What is smallest goes at once. Arguments as of `by_admm`."""
    plan = work.recipe.plan(start, point)
    print(plan, flush=True)
    model = keras.models.clone_model(start)
    model.set_weights(start.get_weights())
    keras_prm.hard_prune(model, plan)
    return [("pruned", model)]


def elsewhere(work, point, start):
    """Another program has pruned it. Arguments as of `by_admm`.

    Weights go there as `dense.npz`, and come back as `pruned.npz`: arrays by
    the path of their variable, such as `"stem/kernel"`, kernels `(height,
    width, in, out)`. Widths are those of the kernels.
    """
    path = work.folder / point
    if not (path / "pruned.npz").exists():
        arrays = {w.path: np.asarray(w) for w in start.weights}
        np.savez(path / "dense.npz", **arrays)
        raise SystemExit(
            f"{point} is to be pruned by another program, from "
            f"{path / 'dense.npz'} to {path / 'pruned.npz'}; for "
            "Torch-Pruning see `examples/study/resnet18_torch_pruning.py`."
        )
    arrays = result_files.read_arrays(path / "pruned.npz")
    return [("pruned", assembled(work, arrays))]


def assembled(work, arrays):
    """The network with these weights, at their widths."""
    widths = {
        name.rpartition("/")[0]: array.shape[-1]
        for name, array in arrays.items()
        if name.endswith("/kernel")
    }
    shape = work.data["train"].image_shape
    model = work.recipe.build(shape, work.num_classes, widths=widths)
    model.set_weights([arrays[weight.path] for weight in model.weights])
    return model


WAYS = dict(zip(NAMES, (by_admm, by_magnitude, elsewhere)))
