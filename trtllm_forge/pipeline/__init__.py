"""Runs a list of stages: keys, plan, store, lock. It knows the ``Stage`` protocol and no stage."""
