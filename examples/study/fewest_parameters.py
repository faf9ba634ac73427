"""A strategy of one's own for `keras_prm.strip(lowering=...)`."""

from keras_prm.lowering import cost_model
from keras_prm.lowering import methods
from keras_prm.lowering import strategies


class FewestParameters(strategies.Lowerer):
    """Of all forms of a layer the one with fewest parameters, then bytes.

    What papers count. A file may be larger for it, by the operations that
    pick columns: `lowering="smallest"` looks at the file.
    """

    def choose_one(self, sparse):
        def key(option):
            kernel = (
                sparse.array if option is None else option.kernel(sparse.array)
            )
            return kernel.size, cost_model.file_bytes(sparse, option)

        best = min([None, *methods.candidates(sparse)], key=key)
        return strategies.Choice(sparse, best, reason="fewest parameters")
