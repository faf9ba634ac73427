"""A strategy of one's own for `keras_prm.strip(lowering=...)`."""

from keras_prm import lowering_costs
from keras_prm import lowering_search
from keras_prm import lowerings


class FewestParameters(lowering_search.Lowerer):
    """Of all forms of a layer the one with fewest parameters, then bytes.

    What papers count. A file may be larger for it, by the operations that
    pick columns: `lowering="smallest"` looks at the file.
    """

    def choose_one(self, site):
        def key(option):
            kernel = site.array if option is None else option.kernel(site.array)
            return kernel.size, lowering_costs.file_bytes(site, option)

        best = min([None, *lowerings.candidates(site)], key=key)
        return lowering_search.Choice(site, best, reason="fewest parameters")
