"""Writes more than a pipe holds, on both streams, then a last line, and ends."""

import sys

LINES = 20_000

for number in range(LINES):
    stream = sys.stdout if number % 2 else sys.stderr
    stream.write(f"line {number} of a child that has much to say\n")
    stream.flush()
print("the last line")
