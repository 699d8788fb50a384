"""Measures a served model: many requests, their times, and what follows from them.

``run.run_bench`` does it all; ``load`` paces the requests, a ``wire`` carries them, ``figures``
turns what was received into numbers, ``report`` and ``compare`` into something to read.
"""
