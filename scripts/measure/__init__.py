"""Measures the targets of the design, as ratios of two things timed side by side in one run.

    python -m scripts.measure [--quick] [--rows 1,2] [--json FILE]

``docs/performance.md`` has the formulas and the table of one run. Nothing here is asserted by
a test: times differ between machines, and on one machine between minutes.
"""
