"""Ways to a sparse network: ADMM, what else one would use, and ablations.

All spend as many epochs on the way from the dense network to a point. Most
go in rounds: first to the recipe's *base*, a network that is small already
and trains fast, and then from point to point of a chain.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras

import keras_prm
from examples.study import measuring
from examples.study import textbook_admm


def by_admm(trainer, model, plan, epochs, taught=True):
    """W is drawn to the plan's set, and pruned to it."""
    adam = keras.optimizers.Adam(trainer.recipe.admm_rate)
    wrapper = trainer.admm(adam, plan, trainer.rho)
    trainer.fit(model, wrapper, epochs, taught=taught)
    keras_prm.hard_prune(model, plan)


def by_textbook_admm(trainer, model, plan, epochs, project, taught=True):
    """The same with two buffers, and with a projection of one's choice."""
    steps = trainer.num_steps
    admm = textbook_admm.TextbookADMM(
        model, plan, lambda epoch: trainer.rho(epoch * steps), project
    )
    adam = keras.optimizers.Adam(trainer.recipe.admm_rate)
    trainer.fit(model, adam, epochs, [admm], taught, admm.penalty)
    admm.prune(model)


by_projecting_jointly = functools.partial(
    by_textbook_admm, project=textbook_admm.joint
)
by_filters_first = functools.partial(
    by_textbook_admm, project=textbook_admm.filters_first
)


def at_once(trainer, model, plan, epochs, taught=True):
    """What has least energy goes now, no epoch is spent on it."""
    keras_prm.hard_prune(model, plan)


def step_by_step(trainer, model, plan, epochs, taught=True):
    """What is smallest by L2 norm goes while training, epoch by epoch."""
    ramp = None  # a ramp of one epoch would never end
    if epochs > 1:
        ramp = keras.optimizers.schedules.PolynomialDecay(
            0.0, epochs - 1, 1.0, power=3
        )
    pruning = keras_prm.IterativePruning(plan, ramp=ramp)
    adam = keras.optimizers.Adam(trainer.recipe.admm_rate)
    trainer.fit(model, adam, epochs, [pruning], taught)
    keras_prm.hard_prune(model, plan)


@dataclasses.dataclass(frozen=True)
class Method:
    """How one gets to a point.

    Args:
        title: What tables call it.
        sparsify: Takes a trainer, a model, a plan and a number of epochs;
            trains and prunes the model. None: another environment does
            all of it.
        after: Name of the method whose result at the point before is where
            it starts; None: the dense network. All epochs that have led the
            others there are for retraining then.
        filters_only: Whether to go to the point's widths instead, which
            store as many weights without leaving out columns.
        taught: Whether the dense network teaches in the last round.
    """

    title: str
    sparsify: Callable | None
    after: str | None = "admm"
    filters_only: bool = False
    taught: bool = True

    def way(self, recipe, point):
        """The points it goes through to one, that one last."""
        return [point] if self.after is None else recipe.way(point)


METHODS = {
    "admm": Method("ADMM", by_admm),
    "one_shot": Method(
        "filters by magnitude, at once", at_once, None, filters_only=True
    ),
    "iterative": Method(
        "filters by magnitude, step by step",
        step_by_step,
        "iterative",
        filters_only=True,
    ),
    "tfmot": Method("single weights, by tfmot", None, None),
    "plan_at_once": Method(
        "filters and columns by magnitude, at once", at_once, None
    ),
    "plan_step_by_step": Method(
        "filters and columns by magnitude, step by step",
        step_by_step,
        "plan_step_by_step",
    ),
    "untaught": Method(
        "ADMM, no distillation in the last round", by_admm, taught=False
    ),
    "two_buffers": Method(
        "textbook ADMM in the last round", by_projecting_jointly
    ),
    "filters_first": Method(
        "textbook ADMM, filters then columns, in the last round",
        by_filters_first,
    ),
}


def prune(trainer, point, method, start, stages):
    """Prunes and retrains.

    Args:
        trainer: The `FrontierTrainer`.
        point: Name of the point.
        method: The `Method`.
        start: The network to start from, in full precision; changed.
        stages: The account so far, a list.

    Returns:
        Tuple of the network without unused paths, and its account.
    """
    recipe = trainer.recipe
    end = recipe.epochs_to(point)
    if method.after is None:
        trainer.epoch = 0
    else:
        trainer.epoch = end - recipe.admm_epochs - recipe.retraining(point)
    plan = recipe.plan(start, recipe.kept(point, method.filters_only))
    method.sparsify(
        trainer, start, plan, recipe.admm_epochs, taught=method.taught
    )
    return _retrained(trainer, start, stages, "", end, method.taught)


def first_round(trainer, sparsify, dense):
    """The recipe's base as it was retrained, and its account."""
    recipe = trainer.recipe
    trainer.epoch = 0
    stages = [trainer.account("dense", dense)]
    model = trainer.network(recipe.precision, dense.get_weights())
    plan = recipe.plan(model, recipe.base)
    sparsify(trainer, model, plan, recipe.base_admm_epochs)
    model = trainer.in_float32(model)
    return _retrained(trainer, model, stages, "base: ", recipe.base_epochs)


def _retrained(trainer, model, stages, prefix, end, taught=True):
    """A pruned network without unused paths, trained up to an epoch.

    That is exact, and faster.
    """
    stages = [*stages, trainer.account(f"{prefix}pruned", model)]
    model = keras_prm.strip(model)
    stages.append(trainer.account(f"{prefix}unused paths", model))
    trainer.retrain(model, end - trainer.epoch, taught)
    stages.append(trainer.account(f"{prefix}retrained", model))
    return model, stages


def purified(
    trainer, model, stages, prefix="", max_drop=None, sweeps="fixed_point"
):
    """Purifies on the validation split, and strips what that cut off.

    Returns:
        Tuple of the network and its account, which goes on from `stages`.
    """
    valid = trainer.data["valid"]
    keras_prm.purify(
        model,
        evaluate=lambda m: measuring.log_likelihood(m, valid),
        max_drop=trainer.recipe.max_drop if max_drop is None else max_drop,
        sweeps=sweeps,
    )
    stages = [*stages, trainer.account(f"{prefix}purified", model)]
    model = keras_prm.strip(model)
    stages.append(trainer.account(f"{prefix}unused paths again", model))
    return model, stages
