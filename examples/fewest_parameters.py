"""A strategy of one's own for `keras_prm.strip(lowering=...)`."""

from keras_prm.lowering import cost_model
from keras_prm.lowering import methods
from keras_prm.lowering import strategies


class FewestParameters(strategies.Lowerer):
    """Of all forms of a layer the one with fewest parameters, then bytes.

    What papers count. A file may be larger for it, by the operations that
    pick columns: `lowering="smallest"` looks at the file.
    """

    def choose_one(self, site):
        def key(option):
            kernel = site.array if option is None else option.kernel(site.array)
            return kernel.size, cost_model.file_bytes(site, option)

        best = min([None, *methods.candidates(site)], key=key)
        return strategies.Choice(site, best, reason="fewest parameters")
