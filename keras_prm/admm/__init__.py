"""ADMM inside of an optimizer: weights are drawn to what a plan allows while
they train.

In reading order:

    iteration          the update and its residuals, on plain tensors
    rho_schedules      `RhoStages`, `ResidualBalancing`: how the penalty grows
    planned_rho        `rho="auto"`: as the residual is to fall
    optimizer_wrapper  an optimizer that hands on to another one, as in Keras
    optimizer_state    what ADMM has come to, to be read
    optimizer          `ADMMWrapper`
    attachment         the wrapper that a model trains with, and its plan
    optimizer_checks   what `ADMMWrapper` refuses
"""
