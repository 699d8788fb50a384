"""Starts two ranks as ``mpirun`` does, each in a process group of its own, and waits for them.

TERM ends it at once and leaves them behind. Rank 0 ends by itself on TERM, with a word; rank 1
ends when rank 0 has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

# Lines by one write each: unbuffered, print writes a line's end apart, and two ranks may mix.
RANKS = {
    "0": "import os, signal, sys\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), sys.exit(0)))\n"
    "os.write(1, b'rank 0 %d\\n' % os.getpid())\n"
    "while True: signal.pause()\n",
    "1": "import os, signal, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "os.write(1, b'rank 1 %d\\n' % os.getpid())\n"
    "sys.stdin.read()\n",
}


def started(rank: str, *, stdin: int, kept: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RANKS[rank]],
        env={**os.environ, "OMPI_COMM_WORLD_RANK": rank},
        stdin=stdin,
        pass_fds=kept,
        preexec_fn=os.setpgrp,
    )


signal.signal(signal.SIGTERM, signal.SIG_DFL)
read_end, write_end = os.pipe()
ranks = [
    started("0", stdin=subprocess.DEVNULL, kept=(write_end,)),
    started("1", stdin=read_end),
]
os.close(write_end)
for one in ranks:
    one.wait()
print("all ended", flush=True)
