"""Owns ``parent.py`` as forge owns Triton, tells the processes, and waits.

Arguments: a log path, and patterns of what to remove at the end.
"""

import signal
import sys
from pathlib import Path

from trtllm_forge.machine.process.managed import ManagedProcess
from trtllm_forge.reporter import SilentReporter

with ManagedProcess(
    [sys.executable, str(Path(__file__).with_name("parent.py"))],
    source="parent",
    log_path=Path(sys.argv[1]),
    reporter=SilentReporter(),
    grace_s=0.2,
    leftovers=sys.argv[2:],
) as process:
    process.wait_until(lambda: bool(process.last_lines), 10)
    print(process.pid, process.last_lines[0].split()[1], flush=True)
    signal.pause()
