"""What can go from a model, and what it is worth.

In reading order:

    trace                from a model to its graph of channels, by the rules
    liveness             which channels are constant, and which nobody uses
    structural_liveness  which channels go once a plan is carried out
    channel_groups       channels that are alike, and what goes with one of them
    width_costs          weights and MACs by the widths that a plan leaves
    explain              `explain`: what could be pruned, and where it pays
    costs                `costs`: counting weights and MACs
"""
