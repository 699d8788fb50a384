"""Child process: renders and checks the sample's repository a few times.

    python -m scripts.measure.render DIR

Prints a JSON list of milliseconds; the first includes the imports that rendering needs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

_TIMES = 11


def main() -> None:
    """Render into folders below the one given."""
    from trtllm_forge.build.build import prepare_build
    from trtllm_forge.config.load import load_config
    from trtllm_forge.config.settings import read_settings
    from trtllm_forge.files.resources import sample_checkpoint_dir
    from trtllm_forge.reporter import SilentReporter

    root = Path(sys.argv[1])
    reporter = SilentReporter()
    config = load_config(flags={"model": "sample"}, config_path=None, environment={}).config
    prepared = prepare_build(config, read_settings(), reporter, output_dir=root / "rendered")
    stage = next(p.stage for p in prepared.plan if p.stage.name == "render")
    inputs = {"download": sample_checkpoint_dir()}
    milliseconds = []
    for number in range(_TIMES):
        work_dir = root / f"render-{time.time_ns()}-{number}"
        work_dir.mkdir(parents=True)
        started = time.perf_counter()
        stage.run(work_dir, inputs, reporter)
        milliseconds.append(1000 * (time.perf_counter() - started))
    print(json.dumps(milliseconds))


if __name__ == "__main__":
    main()
