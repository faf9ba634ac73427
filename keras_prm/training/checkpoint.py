"""`AtomicCheckpoint`: a killed training goes on as if nothing had happened."""

from __future__ import annotations

import pathlib
import warnings
import weakref
from typing import TYPE_CHECKING

import keras

from keras_prm.admm.attachment import check_trains
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.masks import Masks
from keras_prm.pruning.masks import check_are_masks
from keras_prm.pruning.masks import fitting
from keras_prm.training import checkpoint_files
from keras_prm.training import checkpoint_state
from keras_prm.training import trainers
from keras_prm.training.training_settings import changed_settings
from keras_prm.training.training_settings import flags
from keras_prm.training.training_settings import flags_from_list
from keras_prm.training.training_settings import flags_to_list
from keras_prm.training.training_settings import learning_rates
from keras_prm.training.training_settings import rhos
from keras_prm.utils import console
from keras_prm.utils import keras_hooks
from keras_prm.utils import validation

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any


class AtomicCheckpoint(keras.callbacks.Callback):
    """Writes all that a training goes on from, and resumes from it.

    Run a script again after it was killed, wherever that was, and it ends
    with the weights it would have ended with. A `fit` whose file says that
    it is finished trains no further and leaves the final weights in the
    model, so a script of several phases needs a path for each and no more:

    ```python
    model.compile(keras_prm.ADMMWrapper("adam", plan), loss)
    model.fit(data, epochs=20, callbacks=[
        keras_prm.AtomicCheckpoint("run/admm.ckpt", set_epoch=data.set_epoch),
    ])
    masks = keras_prm.hard_prune(model, plan)
    model.compile("adam", loss)
    model.fit(data, epochs=20, callbacks=[
        keras_prm.StructuredMask(masks),
        keras_prm.AtomicCheckpoint(
            "run/retrain.ckpt", masks, set_epoch=data.set_epoch
        ),
    ])
    ```

    The file holds the variables of the model, those of its seed generators
    (`Dropout`) among them, the optimizer's with ADMM's state, averages and
    learning rate, the epoch, plan and masks, and the states of Python's,
    NumPy's legacy and torch's CPU generators. It is replaced in one step:
    at any moment there is a whole one. Only the latest is kept. Delete it
    to train from the beginning.

    It is written after the callbacks of an epoch's end and before the first
    step of the next epoch, or when training ends. Callbacks may therefore
    stand in any order, but one that changes weights as training ends, such
    as `EarlyStopping(restore_best_weights=True)`, must stand before it. A
    finished training goes on if `fit` is asked for more epochs, though
    averages (EMA) are in the weights by then.

    A resumed training ends bit for bit as an uninterrupted one if

    * the steps are deterministic: the same machine, backend and number of
      threads, on a CPU, and on TensorFlow
      `tf.config.experimental.enable_op_determinism()`;
    * order and augmentation of the data depend on the epoch alone (give
      `set_epoch`), or `shuffle=False`; or the data are arrays and
      `fit(shuffle=True)` shuffles them, which on JAX and torch uses the
      generators in the file, and on TensorFlow repeats the order that
      `keras.utils.set_random_seed` fixes, which the script must then call;
    * `fit` is not given `steps_per_epoch`, which cuts epochs anywhere;
    * no other callback counts anything: `EarlyStopping` and
      `ReduceLROnPlateau` begin anew, only the learning rate that was
      reached is kept. One that follows from the epoch, such as
      `LearningRateScheduler`, does no harm;
    * random numbers come from seed generators of layers. The global one of
      `keras.random` and those of TensorFlow and GPUs are not in the file.

    If a file cannot be written later on, as the disk is full, training goes
    on with a warning, since it is worth more than the file: the former one
    still stands and the next epoch tries again. What is not finite is not
    written either: a training that diverged can be run again from the last
    good epoch.

    A training that is stopped within an epoch, by a callback that minds the
    time, say, goes on from the last file, at the begin of an epoch.

    What was set while training, the learning rate and a number `rho`, is the
    file's: a script that was edited in between does not change them, and a
    line says so. What it says of all else, such as `update_every`, `ramp`, a
    momentum or the batch size, holds, with a warning where the file says
    something else. Where a training goes on, and that all is done, is
    printed.

    A model that trains others, such as a GAN, is kept whole: with all its
    networks and the optimizers that it holds as attributes.

    Args:
        filepath: The file, of one `fit` alone.
        masks: The `Masks` that are trained under, to be kept in the file
            and compared when training is resumed; or `None`.
        every: Epochs from one file to the next; the last is always written.
            Defaults to 1.
        set_epoch: Called with each epoch's number before its data are read,
            in resumed and other trainings alike; or `None`.
        model: The network inside of the model of `fit` that the masks are
            for, or `None`. The file is of the whole model all the same.

    Raises:
        TypeError, ValueError: An argument is of no use; when training
            begins, also if the file is damaged or of another model, plan,
            optimizer or masks. Nothing is changed then.
        OSError: When training begins, if the path cannot be written to.

    Warns:
        UserWarning: The script has other settings than the file or asks for
            fewer epochs than it is of, or a file cannot be written.
    """

    @validation.renamed(path="filepath")
    def __init__(
        self,
        filepath: str | os.PathLike[str],
        masks: Masks | None = None,
        every: int = 1,
        set_epoch: Callable[[int], Any] | None = None,
        model: keras.Model | None = None,
    ) -> None:
        super().__init__()
        _check_settings(masks, every, set_epoch)
        self.path = pathlib.Path(filepath).resolve()
        self.masks = masks
        self.every = int(every)
        self.set_epoch = set_epoch
        self.network = model

    @staticmethod
    @validation.renamed(path="filepath")
    def read(filepath: str | os.PathLike[str]) -> dict[str, Any]:
        """What is in a file, less the variables.

        Returns:
            dict with `"epoch"`, the number of epochs done, `"masks"` and
            `"plan"`, either of which may be `None`.
        """
        header, _ = checkpoint_files.read(pathlib.Path(filepath))
        masks, plan = header["masks"], header["plan"]
        return {
            "epoch": header["epoch"],
            "masks": masks and Masks.from_json(masks),
            "plan": plan and SparsityPlan.from_config(plan),
        }

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._done = self._written = 0
        self._due = self._diverged = self._stopped = False
        self._first: Any = None
        if isinstance(keras_hooks.initial_epoch(self.model), _Begin):
            _begin_fit_at(self.model, None)  # of a fit that never began
        self._rates = learning_rates(self.model)
        self._flags = flags(self.model)
        checkpoint_files.prepare(self.path)
        if self.network is not None:
            if self.masks is not None:
                fitting(self.network, self.masks)
            trainers.check_network(self.model, self.network)
        for wrapper in trainers.wrappers(self.model):
            check_trains(wrapper, self.network or self.model)
        if self.path.exists():
            self._resume()

    def _resume(self):
        header, arrays = checkpoint_files.read(self.path)
        missing = len(header["model"]) - len(self.model.variables)
        # A model that trains others may have all weights and not be built.
        if missing > 0 and not self.model.built:
            raise ValueError(
                f"Cannot resume from {self.path}: the model "
                f"{self.model.name!r} is not built, and {missing} variables "
                "of the file are not there yet. Build it before `fit`: give "
                "it a `keras.Input`, or call it on a batch."
            )
        checkpoint_state.check_fits(self.model, self.masks, header, self.path)
        self._flags |= flags_from_list(self.model, header)
        scripts = rhos(self.model)
        checkpoint_state.restore(self.model, arrays)
        checkpoint_state.set_random_state(header["random"])
        self._done = self._written = self._first = header["epoch"]
        epochs = self.params["epochs"]
        if self._done > epochs:
            warnings.warn(
                f"{self.path} is of {self._done} epochs, and `fit` was asked "
                f"for {epochs}: the model keeps the weights of the file. "
                "Delete the file to train from the beginning.",
                stacklevel=2,
            )
        if epochs <= header["stopped"]:
            self._first = max(self._done, epochs)
        self._say(epochs)
        if self._first < epochs:
            self._compare(header, scripts)
        _begin_fit_at(self.model, self._first)

    def _say(self, epochs):
        """Says where training goes on, or that it does not."""
        if self._first >= epochs:
            how = " (stopped early)" * (self._done < epochs)
            console.print_message(
                f"AtomicCheckpoint: all is done after {self._done} of "
                f"{epochs} epochs{how}, by {self.path}. Nothing is trained."
            )
            return
        console.print_message(
            f"AtomicCheckpoint: resuming at epoch {self._first + 1} of "
            f"{epochs} from {self.path}"
        )

    def _compare(self, header, scripts):
        """Says where the script has other settings than the file."""
        begun = header.get("learning_rates", self._rates)
        kept = learning_rates(self.model)
        for mine, former, rate in zip(self._rates, begun, kept):
            # What callbacks have made of it since then is no news.
            if None not in (mine, former, rate) and mine != former:
                console.print_message(
                    f"AtomicCheckpoint: learning_rate={rate:g}, as in the "
                    f"file; the script's learning_rate={mine:g} is not used. "
                    "Set `optimizer.learning_rate` between epochs to change "
                    "it."
                )
        for mine, kept in zip(scripts, rhos(self.model)):
            if mine != kept:
                console.print_message(
                    f"AtomicCheckpoint: rho={kept:g}, as in the file; the "
                    f"script's rho={mine:g} is not used. Set "
                    "`optimizer.rho` between epochs to change it."
                )
        changed = changed_settings(self.model, header)
        steps = [header.get("steps"), self.params.get("steps")]
        if None not in steps and steps[0] != steps[1]:
            changed.append(
                f"{steps[1]} steps per epoch (in the file {steps[0]}; the "
                "batch size or the data differ)"
            )
        if changed:
            warnings.warn(
                f"{self.path} was written under other settings, and training "
                f"goes on under those of the script: {', '.join(changed)}. "
                "Set them as they were to go on as before, or delete the "
                "file to train from the beginning.",
                stacklevel=2,
            )

    def on_epoch_begin(
        self,
        epoch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        if self._first not in (None, epoch):
            raise RuntimeError(
                f"Expected Keras to go on with epoch {self._first}. Received: "
                f"epoch={epoch}. This version of Keras ignores where "
                "`AtomicCheckpoint` tells `fit` to begin; use one that "
                "keras_prm is tested with."
            )
        self._first = None
        _begin_fit_at(self.model, None)
        # Reading the first batch draws an order; the weights come later.
        self._random = checkpoint_state.random_state()
        if self.set_epoch is not None:
            self.set_epoch(epoch)

    def on_train_batch_begin(
        self,
        batch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        # By now callbacks have put back what they swapped at an epoch's end.
        if self._due:
            self._due = False
            self._write()

    def on_train_batch_end(
        self,
        batch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        self._batch = batch
        self._stopped = self.model.stop_training

    def on_epoch_end(
        self,
        epoch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        steps = self.params.get("steps")
        if steps is not None and self.model.stop_training:
            self._stopped = self._batch + 1 < steps
        if self._stopped:  # within the epoch, which has to be done again
            return
        self._done = epoch + 1
        self._due = self._done % self.every == 0

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        _begin_fit_at(self.model, None)
        if self._stopped:
            self._collect()
        elif self._done > self._written:
            self._random = checkpoint_state.random_state()
            stopped = self.params["epochs"] if self.model.stop_training else 0
            self._write(stopped)
        elif self._done and not self._diverged:
            # Keras has put averages into the weights, which came after.
            _, arrays = checkpoint_files.read(self.path)
            checkpoint_state.restore(self.model, arrays)

    def _collect(self):
        """What goes into the file; warns where that is not finite."""
        description, arrays = checkpoint_state.collect(self.model, self.masks)
        self._diverged = not checkpoint_state.finite(arrays)
        if self._diverged:
            warnings.warn(
                f"{self.path} stays as it is: there are NaN or infinite "
                f"weights or optimizer variables after {self._done} epochs. "
                "Train again from there with a smaller learning rate.",
                stacklevel=3,
            )
        return description, arrays

    def _write(self, stopped=0):
        description, arrays = self._collect()
        if self._diverged:
            return
        self._flags |= flags(self.model)
        header = description | {
            "flags": flags_to_list(self.model, self._flags),
            "epoch": self._done,
            "stopped": stopped,
            "random": self._random,
            "learning_rates": self._rates,
            "steps": self.params.get("steps"),
        }
        try:
            checkpoint_files.write(self.path, header, arrays)
        except OSError as error:
            warnings.warn(
                f"Epoch {self._done} is not in {self.path}: {error}. Training "
                "goes on, and the file is as it was. Free some space; the "
                "next epoch tries again.",
                stacklevel=2,
            )
        else:
            self._written = self._done


def _begin_fit_at(model, epoch):
    """Makes the `fit` that is beginning start at an epoch.

    Keras has no public way; its own `BackupAndRestore` sets the same. It
    would hold for every later `fit`, even if this one never begins, as
    another callback raises; so it says which `fit` it is of.
    """
    begin = None if epoch is None else _Begin(model, epoch)
    keras_hooks.set_initial_epoch(model, begin)


class _Begin:
    """The epoch where a `fit` begins; false in every other `fit`."""

    def __init__(self, model, epoch):
        self._model = weakref.ref(model)
        self._fit = getattr(model, "history", None)
        self._epoch = epoch

    def __bool__(self):
        # Each `fit` gives its model a `History` of its own.
        return getattr(self._model(), "history", None) is self._fit

    def __index__(self):
        return self._epoch


def _check_settings(masks, every, set_epoch):
    if masks is not None:
        check_are_masks(masks)
    advice = "Pass, for example, `every=1`."
    validation.check_whole("every", every, "epochs", advice)
    if set_epoch is not None and not callable(set_epoch):
        raise TypeError(
            "`set_epoch` must be a function of the epoch's number. "
            f"Received: set_epoch={set_epoch!r}. Pass, for example, "
            "`set_epoch=data.set_epoch`."
        )
