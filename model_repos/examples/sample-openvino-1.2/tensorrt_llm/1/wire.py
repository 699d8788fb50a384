"""Messages between the model and its engine process: plain values over a socket pair.

Each message is four bytes of length and the value as ``marshal`` writes it: numbers, text,
bytes, tuples and lists alone. Both ends are the same interpreter, and nobody else has the
socket.
"""

import contextlib
import marshal
import select
import socket
import struct

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 18


class Wire:
    """One end of the socket pair. One thread receives; sending is that thread's, or locked."""

    def __init__(self, end):
        self._socket = end
        self._buffer = bytearray()
        self._received = []

    def fileno(self):
        """Return the descriptor, for ``select``."""
        return self._socket.fileno()

    def send(self, message):
        """Send a message, waiting until the other end has room for it."""
        self._socket.sendall(_frame(message))

    def send_and_receive(self, message):
        """Send a message and keep what comes meanwhile.

        For the end that both sends and receives in one thread: two ends that only wait for
        room would wait for each other.
        """
        data = memoryview(_frame(message))
        while data:
            readable, writable, _ = select.select([self._socket], [self._socket], [])
            if readable:
                self._fill()
            if writable:
                with_room = self._socket.send(data, socket.MSG_DONTWAIT)
                data = data[with_room:]

    def receive(self, timeout_s):
        """Return the messages that have come, oldest first, waiting for at least one.

        Args:
            timeout_s: How long to wait when there is none, in seconds; None is for ever.

        Raises:
            EOFError: The other end is gone.
        """
        if not self._received and select.select([self._socket], [], [], timeout_s)[0]:
            self._fill()
        received, self._received = self._received, []
        return received

    def shut_down(self):
        """End the conversation; the other end and a thread that receives notice at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _fill(self):
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise EOFError
        self._buffer += data
        start = 0
        while start + _LENGTH.size <= len(self._buffer):
            (size,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + size
            if end > len(self._buffer):
                break
            self._received.append(marshal.loads(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]


def _frame(message):
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body
