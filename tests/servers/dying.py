"""Says why, and ends with exit code 3."""

import sys

print("warming up")
print("no weights here", file=sys.stderr)
sys.exit(3)
