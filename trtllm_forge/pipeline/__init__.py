"""Run a list of stages: keys, plan, store, lock. Knows only the ``Stage`` protocol."""
