"""Run a list of stages: keys, plan, store, lock. Knows the ``Stage`` protocol, but no stage."""
