"""Starts the engine's process and talks to it. See ``engine_worker`` for the other side."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

from wire import Wire

_STOP_DEADLINE_S = 10.0


class EngineProcess:
    """A loaded engine in a process of its own.

    ``start`` and ``stop`` may be called by any thread, ``receive`` by one.

    Args:
        settings: The arguments of ``engine.Engine``, plain values.

    Raises:
        RuntimeError: The engine cannot be loaded, or its process ended; says why.
    """

    def __init__(self, settings):
        self._settings = settings
        self._lock = threading.Lock()
        self._files = _files(settings["engine_dir"])
        self.restart()

    def restart(self):
        """Start the process, or another one after it has ended.

        Raises:
            RuntimeError: See the class.
        """
        if _files(self._settings["engine_dir"]) != self._files:
            # The tokenizer that serves is the old one's.
            raise RuntimeError(
                "the engine's process ended, and its files have been replaced since it was loaded: "
                "load the model again"
            )
        ours, theirs = socket.socketpair()
        worker = Path(__file__).with_name("engine_worker.py")
        with theirs:
            self._child = subprocess.Popen(
                [_interpreter(), str(worker), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self._wire = Wire(ours)
        self._send(("load", self._settings))
        try:
            ((kind, self.facts),) = self.receive(None)
        except EOFError:
            raise RuntimeError(self.ending()) from None
        if kind == "failed":
            self._child.wait()
            raise RuntimeError(self.facts)

    def start(self, generation):
        """Let a generation join the batch."""
        self._send(("start", generation.message()))

    def stop(self, key):
        """Let a generation leave the batch; nothing more needs to be said of it."""
        self._send(("stop", key))

    def receive(self, timeout_s):
        """Return the messages of the steps since the last call.

        Raises:
            EOFError: The process has ended.
        """
        try:
            return self._wire.receive(timeout_s)
        except ConnectionError as error:
            raise EOFError from error

    def close(self):
        """End the process and wait for it."""
        # Shut down rather than closed: the thread that receives wakes up, too.
        self._wire.shut_down()
        try:
            self._child.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def ending(self):
        """Return in words how the process ended."""
        code = self._child.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        hint = ", which the system sends when memory runs out" if code == -9 else ""
        return f"the engine's process ended with {how}{hint}"

    def _send(self, message):
        # A process that has ended is noticed by the thread that receives.
        with self._lock:
            try:
                self._wire.send(message)
            except ConnectionError:
                return


def engine_settings(folder):
    """Return the arguments of ``engine.Engine`` that a model's configuration says."""
    return {
        "engine_dir": str(folder.path("gpt_model_path")),
        "limits": folder.engine_limits(),
        "max_batch_size": max(1, folder.config["max_batch_size"]),
        "max_num_tokens": folder.integer("max_num_tokens", 2048),
        "kv_fraction": float(folder.text("kv_cache_free_gpu_mem_fraction", "0.9")),
        "max_kv_tokens": folder.integer("max_tokens_in_paged_kv_cache"),
        "block_reuse": folder.flag("enable_kv_cache_reuse", default=True),
        "chunked_context": folder.flag("enable_chunked_context", default=True),
        "fast_math": folder.flag("fast_math", default=False),
        "threads": folder.integer("engine_threads", 0),
        "draft_tokens": folder.integer("max_draft_len", 0),
        "draft_ngram": folder.integer("max_matching_ngram_size", 3),
    }


def _files(engine_dir):
    """Return what tells the files of an engine from those that replace them."""
    files = {path.name: path.stat() for path in Path(engine_dir).glob("*")}
    return {name: (file.st_ino, file.st_size, file.st_mtime_ns) for name, file in files.items()}


def _interpreter():
    """Return the Python to run: the one that this code runs in, or the one found by name."""
    name = Path(sys.executable or "").name
    return sys.executable if name.startswith("python") else shutil.which("python3")
