"""Kills builds with SIGKILL at random moments and runs them again: is the result always right?

Each round builds another precision than the last, so that kills meet first builds, rebuilds and
the exchange of the published folder. After each kill the published repository must be whole, old
or new; after the next run it must be the new one; and no entry of the store may be served that is
not what it was when it was made. Prints a line per round; ``--seed`` repeats a run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.servers.staged_build import files_of  # noqa: E402 - the checkout is no package
from trtllm_forge.delivery.manifest import read_manifest  # noqa: E402
from trtllm_forge.delivery.verification import verify_files  # noqa: E402
from trtllm_forge.files.digest import sha256_file  # noqa: E402
from trtllm_forge.pipeline.store import Store  # noqa: E402
from trtllm_forge.reporter import SilentReporter  # noqa: E402

DEADLINE_S = 60
PRECISIONS = ("int4", "int8", "fp16", "bf16")


def start(root: Path, precision: str) -> subprocess.Popen[str]:
    """Start a build and return it once it has begun to work."""
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.servers.staged_build"),
            *(str(root / "cache"), str(root / "out" / "coder"), "--precision", precision),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "building\n", "the build did not start"
    return child


def finish(child: subprocess.Popen[str]) -> list[str]:
    """Return which stages a build ran, once it has ended well."""
    assert child.stdout is not None
    stdout = child.stdout.read()
    child.wait(DEADLINE_S)
    assert child.returncode == 0, f"the build ended with {child.returncode}"
    return list(json.loads(stdout)["ran"])


def kill_at(child: subprocess.Popen[str], moment_s: float) -> bool:
    """Kill a build and its children that long after it began; return whether it was at work."""
    time.sleep(moment_s)
    was_running = child.poll() is None
    if was_running:
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate(timeout=DEADLINE_S)
    return was_running


def published(root: Path) -> str | None:
    """Return the precision of the repository that is in place, None where there is none.

    Raises:
        AssertionError: It is not whole.
    """
    folder = root / "out" / "coder"
    if not folder.exists():
        return None
    manifest = read_manifest(folder)
    assert manifest is not None, "a repository without a manifest is in place"
    found = verify_files(
        folder, manifest, depth="full", cache_dir=root / "state", reporter=SilentReporter()
    )
    assert found.is_as_built, f"a repository is in place that is not whole: {found.lines()}"
    for precision in PRECISIONS:
        files = files_of(precision)
        if all((folder / name).read_bytes() == content for name, content in files.items()):
            return precision
    message = "a repository of no build is in place"
    raise AssertionError(message)


def require_sound_store(root: Path) -> int:
    """Read every entry that would be served and return how many there are."""
    store = Store(root / "cache")
    count = 0
    for folder in store.root.glob("*/[0-9a-f][0-9a-f]/[0-9a-f]*"):
        entry = store.find(folder.parent.parent.name, folder.name)
        assert entry is not None, f"{folder} is damaged"
        for output in entry.outputs:
            path = entry.files_dir / output.path
            assert sha256_file(path) == output.sha256, f"{path} is corrupt and would be served"
        count += 1
    return count


def leftovers(root: Path) -> list[str]:
    """Return what is neither an entry nor the published folder."""
    return [
        str(path.relative_to(root))
        for path in [*root.glob("cache/*/??/.*"), *root.glob("out/*")]
        if path.name != "coder" and path.suffix != ".log"
    ]


def run_round(root: Path, precision: str, before: str | None, moment_s: float) -> str:
    """Kill one build, look, run it again, look again; return what was seen, in words."""
    was_running = kill_at(start(root, precision), moment_s)
    after = published(root)
    assert after in (before, precision), f"{after} is in place, {before} was"
    entries = require_sound_store(root)
    ran = finish(start(root, precision))
    assert published(root) == precision, "the second run published something else"
    require_sound_store(root)
    assert leftovers(root) == [], f"left behind: {leftovers(root)}"
    state = f"killed with {entries} entries in the store" if was_running else "had ended"
    return f"{precision:<5} {moment_s * 1000:>4.0f} ms  {state}, ran again: {' '.join(ran) or '-'}"


def main() -> int:
    """Run the rounds; the first that finds something wrong ends the script with its traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    chance = random.Random(seed)
    killed = 0
    with tempfile.TemporaryDirectory() as folder:
        child = start(Path(folder, "timed"), PRECISIONS[0])
        started = time.monotonic()
        finish(child)
        whole_s = time.monotonic() - started
        root = Path(folder, "killed")
        before: str | None = None
        for number in range(arguments.rounds):
            if number % len(PRECISIONS) == 0:
                # Otherwise everything would be fresh from the second turn on.
                root = Path(folder, f"killed-{number}")
                before = None
            precision = PRECISIONS[number % len(PRECISIONS)]
            seen = run_round(root, precision, before, chance.uniform(0, whole_s))
            killed += "killed" in seen
            before = precision
            print(f"{number + 1:>3}  {seen}", flush=True)
    print(f"{killed} of {arguments.rounds} builds were killed at work; seed {seed}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
