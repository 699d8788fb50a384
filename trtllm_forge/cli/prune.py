"""``forge cache prune``: remove artifacts from the store."""

from __future__ import annotations

import shlex
import time
from typing import Annotated

import typer

from trtllm_forge.cli.cache import SELECTING, StageOption
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    DryRunOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    YesOption,
)

OlderThanOption = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        metavar="TIME",
        help="Only entries that no build has used for this long: 30d, 12h, 45m or 10s.",
        show_default=False,
        rich_help_panel=SELECTING,
    ),
]
KeepLastOption = Annotated[
    int,
    typer.Option(
        "--keep-last",
        metavar="N",
        min=0,
        help="Keep the N most recently used entries of each stage.",
        rich_help_panel=SELECTING,
    ),
]
IncludingUsedOption = Annotated[
    bool,
    typer.Option(
        "--including-used",
        help="Also remove entries that a repository's lock names; the repository stays intact.",
        rich_help_panel=SELECTING,
    ),
]


def prune(
    *,
    older_than: OlderThanOption = None,
    keep_last: KeepLastOption = 0,
    stage: StageOption = None,
    including_used: IncludingUsedOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Choose entries, ask, and remove those that no build is using."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.errors import ConfigError
        from trtllm_forge.pipeline.inventory import (
            PruneRule,
            choose_to_prune,
            list_entries,
            require_store,
        )
        from trtllm_forge.pipeline.prune import Pruned, remove_entries
        from trtllm_forge.pipeline.store import Store
        from trtllm_forge.pipeline.store_document import (
            entries_text,
            pruned_document,
            pruned_text,
            show_count,
        )
        from trtllm_forge.text.quantities import parse_duration, show_size

        rule = PruneRule(
            older_than_s=None if older_than is None else parse_duration(older_than),
            keep_last=keep_last,
            stage=stage,
            including_used=including_used,
        )
        settings = read_settings()
        store = Store(settings.cache_dir)
        require_store(store)
        now_s = time.time()
        chosen = choose_to_prune(list_entries(store, settings.model_repos_dir), rule, now_s=now_s)
        if dry_run or not chosen:
            text = entries_text(chosen, now_s) if chosen else f"nothing to remove in {store.root}"
            planned = Pruned(removed=chosen, kept=())
            console.result(text, pruned_document(store.root, planned, dry_run=dry_run))
            return
        size = show_size(sum(entry.size_bytes for entry in chosen))
        if not yes and not console.confirm(f"remove {show_count(chosen)}, {size}?"):
            what = f"nothing was removed: {show_count(chosen)}, {size}, would go"
            hint = _command(older_than, keep_last, stage, including_used)
            raise ConfigError(what, why="not confirmed; pass --yes", hint=hint)
        pruned = remove_entries(store, chosen)
        console.result(pruned_text(pruned), pruned_document(store.root, pruned, dry_run=False))


def _command(
    older_than: str | None, keep_last: int, stage: str | None, including_used: bool
) -> str:
    words = ["forge", "cache", "prune"]
    words += ["--older-than", older_than] if older_than else []
    words += ["--keep-last", str(keep_last)] if keep_last else []
    words += ["--stage", stage] if stage else []
    words += ["--including-used"] if including_used else []
    return shlex.join([*words, "--yes"])
