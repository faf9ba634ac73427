"""Base class of optimizers that hand on to an inner one."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.utils import backend
from keras_prm.utils import keras_hooks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence
    from typing import Any


class OptimizerWrapper(keras.optimizers.Optimizer):
    """Hands everything that it does not do itself to `inner_optimizer`.

    Learning rate, step counter, loss scale and averages are those of the
    inner optimizer; its variables follow the wrapper's own.

    Args:
        inner_optimizer: A `keras.optimizers.Optimizer`.
        name: Name of the wrapper.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        name: str | None = None,
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self._given_weights = None

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        given, self._given_weights = self._given_weights, None
        if given is None:
            return
        if len(given) != len(self.variables):
            warnings.warn(
                f"The saved state of optimizer '{self.name}' is not used: it "
                f"has {len(given)} variables, and the optimizer "
                f"{len(self.variables)}. Make the optimizer with the inner "
                "one that was saved, to go on from there. Received: "
                f"inner_optimizer={self.inner_optimizer.name!r}",
                stacklevel=2,
            )
            return
        with backend.outside_of_graphs():
            self.set_weights(given)

    @property
    def variables(self) -> list[keras.Variable]:
        """The wrapper's own variables, then the inner optimizer's."""
        return self._variables + self.inner_optimizer.variables

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets all variables, or keeps the weights until there are some.

        Keras gives an optimizer in an `.h5` file its weights before it knows
        the variables it will train, and so does `load_weights` of a model
        that has not been trained.
        """
        if not self.built:
            self._given_weights = [_array_of(w) for w in weights]
            return
        num = len(self._variables)
        super().set_weights(weights[:num])
        self.inner_optimizer.set_weights(weights[num:])

    def load_own_variables(self, store: Any) -> None:
        """As in Keras, but keeps what comes before there are variables."""
        names = [str(i) for i in range(len(store.keys()))]
        if self.built or len(names) <= len(self.variables):
            super().load_own_variables(store)
        else:
            self.set_weights([store[name] for name in names])

    def save_own_variables(self, store: Any) -> None:
        """As in Keras; weights that wait for their variables are kept, too."""
        if self._given_weights is None:
            super().save_own_variables(store)
            return
        for i, weight in enumerate(self._given_weights):
            store[str(i)] = weight

    @property
    def is_given_weights(self) -> bool:
        """Whether saved weights wait for the variables they belong to."""
        return self._given_weights is not None

    @property
    def iterations(self) -> keras.Variable:
        """The inner optimizer's step counter."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def loss_scale_factor(self) -> Any:
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, loss_scale_factor: Any) -> None:
        # The base constructor sets None before there is an inner optimizer.
        if hasattr(self, "inner_optimizer"):
            self.inner_optimizer.loss_scale_factor = loss_scale_factor

    @property
    def _model_variables_moving_average(self):
        # `SwapEMAWeights` looks for it below a `LossScaleOptimizer`.
        return keras_hooks.averages_of(self.inner_optimizer)

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, keras.Variable]],
    ) -> keras.Variable:
        super().apply_gradients(grads_and_vars)
        return self.iterations

    def exclude_from_weight_decay(self, *args: Any, **kwargs: Any) -> None:
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

    def scale_loss(self, loss: Any) -> Any:
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(
        self,
        var_list: Sequence[keras.Variable],
    ) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)


def _array_of(weight):
    """A copy: what is read from a file is gone when the file is closed."""
    if isinstance(weight, keras.Variable):
        return keras.ops.convert_to_numpy(weight)
    return np.array(weight)
