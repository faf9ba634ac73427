"""What can go from a model, and what it is worth.

In reading order:

    trace           from a model to its graph of channels, by the rules
    liveness        which channels are constant, and which nobody uses
    channel_groups  channels that are alike, and what goes with one of them
    explain         `explain`: what could be pruned, and where it pays
    costs           `costs`: counting weights and MACs
"""
