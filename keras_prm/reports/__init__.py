"""What each function found: frozen records that print themselves.

In reading order:

    base          what all reports can do
    tables        tables of text that are Markdown, too
    costs         `Costs`: weights, by three ways of counting, and MACs
    explanation   `Explanation`, of `explain`
    purification  `PurificationReport`, of `purify`
    strip         `StripReport`, of `strip`
    certificate   `Certificate`, of `verify`
    export        `ExportReport`, of `export_litert`
    benchmark     `BenchmarkReport`, of `benchmark`
"""
