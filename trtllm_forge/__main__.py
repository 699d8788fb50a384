"""Lets ``python -m trtllm_forge`` stand for the ``forge`` command."""

from trtllm_forge.cli.app import main

if __name__ == "__main__":
    main()
