"""``forge cache ls`` and ``forge cache du``: list the store and its disk use."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import JsonOption, QuietOption, VerboseOption

SELECTING = "Selection"

StageOption = Annotated[
    str | None,
    typer.Option(
        "--stage",
        metavar="STAGE",
        help="Only entries of this stage.",
        show_default=False,
        rich_help_panel=SELECTING,
    ),
]


def ls(
    *,
    stage: StageOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """List the entries by stage, most recently used first."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.pipeline.inventory import list_entries, require_store
        from trtllm_forge.pipeline.store import Store
        from trtllm_forge.pipeline.store_document import entries_document, entries_text

        settings = read_settings()
        store = Store(settings.cache_dir)
        require_store(store)
        found = list_entries(store, settings.model_repos_dir)
        entries = [entry for entry in found if stage in (None, entry.stage)]
        text = entries_text(entries, time.time()) if entries else f"nothing in {store.root}"
        console.result(text, entries_document(store.root, entries))


def du(*, json: JsonOption = False, verbose: VerboseOption = 0, quiet: QuietOption = False) -> None:
    """Add up the store's disk use; a file with several names counts once."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.pipeline.inventory import disk_use, require_store
        from trtllm_forge.pipeline.store import Store
        from trtllm_forge.pipeline.store_document import use_document, use_text

        store = Store(read_settings().cache_dir)
        require_store(store)
        use = disk_use(store)
        console.result(use_text(use), use_document(store.root, use))
