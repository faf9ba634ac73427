"""What shall go, and the nearest weights from which it has gone.

In reading order:

    records          `KernelPlan`, `ChannelGroup`, `KernelMask`
    plan             `SparsityPlan`
    kept_numbers     from numbers that stay to fractions
    plan_forms       its config, its file, its digest, its text
    plan_makers      from what is asked of layers to a plan
    plan_builder     from fractions per layer to groups of channels and kernels
    plan_fit         whether a plan is of a model, and its names there
    plan_checks      what a plan may ask of which layers
    column_patterns  where the columns that stay may lie
    round_widths     what stays so that layers have round widths
    shared_budget    a budget that groups of channels share
    projections      the nearest kernels that a plan allows
"""
