"""Asks the engine to stop what runs under a request id."""

import numpy as np
import triton_python_backend_utils as pb_utils


def stop_engine(engine_model, request_id):
    """Send the contract's ``stop`` and wait until the engine has taken it."""
    one = np.ones((1, 1), np.int32)
    stop = pb_utils.InferenceRequest(
        model_name=engine_model,
        request_id=request_id,
        requested_output_names=[],
        inputs=[
            # Required by the configuration and not looked at.
            pb_utils.Tensor("input_ids", one),
            pb_utils.Tensor("input_lengths", one),
            pb_utils.Tensor("request_output_len", one),
            pb_utils.Tensor("stop", np.ones((1, 1), np.bool_)),
        ],
    )
    for _ in stop.exec(decoupled=True):
        pass
