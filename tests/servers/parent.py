"""Starts a child of its own that is deaf to TERM, tells its process id, and waits."""

import signal
import subprocess
import sys
from pathlib import Path

child = subprocess.Popen(
    [sys.executable, str(Path(__file__).with_name("deaf_to_term.py"))], stdout=subprocess.PIPE
)
assert child.stdout is not None
child.stdout.readline()
print(f"grandchild {child.pid}", flush=True)
signal.pause()
