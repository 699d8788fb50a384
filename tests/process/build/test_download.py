from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoint_builder import checkpoint_files, safetensors_bytes
from tests.servers.hub import COMMIT, Faults, HubFile, LocalHub
from trtllm_forge.build.stages.download import DownloadStage, ResolvedCheckpoint, resolve_checkpoint
from trtllm_forge.checkpoint.hub import repo_dir
from trtllm_forge.checkpoint.hub_access import HubAccess
from trtllm_forge.checkpoint.hub_transfer import MAX_ATTEMPTS
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import CheckpointError, ConfigError, ForgeError, PrerequisiteError
from trtllm_forge.files.staging import remove_tree
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.run import StageResult, run_plan
from trtllm_forge.pipeline.store import Store
from trtllm_forge.reporter import SilentReporter

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "acme/tiny"
PRESET = "bigcode/starcoder"
WEIGHTS = safetensors_bytes(40_000)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
TOKEN = "hf_" + "s3cret" * 4
REPOSITORY = Path(__file__).resolve().parents[3]


class RecordingReporter(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.bytes_done: list[tuple[int, int]] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        if name == "download":
            assert unit == "bytes"
            self.bytes_done.append((done, total))


def hub_files() -> dict[str, HubFile]:
    files = {name: HubFile(content) for name, content in checkpoint_files().items()}
    files["model.safetensors"] = HubFile(WEIGHTS, large=True)
    for name in ("README.md", "modeling_tiny.py", "tf_model.h5", "pytorch_model.bin"):
        files[name] = HubFile(b"not needed")
    files["onnx/model.onnx"] = HubFile(b"not needed", large=True)
    return files


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub({MODEL: hub_files()}) as server:
        yield server


def access_to(hub: LocalHub, *, token: str | None = None, offline: bool = False) -> HubAccess:
    return HubAccess(
        endpoint=hub.url,
        cache_dir=Path(os.environ["HF_HOME"]) / "hub",
        token=token,
        offline=offline,
        retry_delay_s=0,
    )


def download(
    access: HubAccess,
    model: str = MODEL,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    reporter: SilentReporter | None = None,
) -> StageResult:
    """Resolve and run the real stage against the real store."""
    settings, reporter = read_settings(), reporter or SilentReporter()
    checkpoint = resolve_checkpoint(
        model,
        settings=settings,
        reporter=reporter,
        revision=revision,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        access=access,
    )
    store = Store(settings.cache_dir)
    (result,) = run_plan(make_plan([DownloadStage(checkpoint, settings)], store), store, reporter)
    return result


@contextmanager
def refused(kind: type[ForgeError], what: str, why: str, hint: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert (error.what, error.why, error.hint) == (what, why, hint)
    assert TOKEN not in f"{error!r} {error.__cause__!r}"


def blobs(access: HubAccess) -> list[str]:
    return sorted(path.name for path in (repo_dir(access, MODEL) / "blobs").iterdir())


def partial_files(access: HubAccess) -> list[int]:
    folder = repo_dir(access, MODEL) / "blobs"
    return [path.stat().st_size for path in folder.glob("*.incomplete")]


def test_only_needed_files_come_and_the_revision_is_recorded(hub: LocalHub) -> None:
    result = download(access_to(hub))
    needed = sorted({**checkpoint_files()})
    folder = result.entry.files_dir
    assert sorted(path.name for path in folder.iterdir()) == sorted([*needed, "checkpoint.json"])
    assert all((folder / name).is_symlink() for name in needed)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    document = json.loads((folder / "checkpoint.json").read_text())
    files = hub.models[MODEL]
    assert document == {
        "schema": 1,
        "repo_id": MODEL,
        "revision": COMMIT,
        "origin": "hub",
        "family": "gpt_bigcode",
        "licence": None,
        "files": [
            {"path": name, "size_bytes": files[name].size_bytes, "sha256": files[name].sha256}
            for name in needed
        ],
    }
    fetched = {request.path.rsplit("/", 1)[-1].split("?")[0] for request in hub.requests}
    assert fetched - {"main", "tiny?blobs=True", "tiny"} == set(needed)


def test_unchanged_model_is_not_fetched_again(hub: LocalHub) -> None:
    first = download(access_to(hub))
    hub.requests.clear()
    again = download(access_to(hub))
    assert (first.ran, again.ran) == (True, False)
    assert again.planned.key == first.planned.key
    assert [request.path for request in hub.requests] == [f"/api/models/{MODEL}?blobs=true"]


def test_what_the_cache_of_hugging_face_holds_is_reused(hub: LocalHub) -> None:
    from huggingface_hub import hf_hub_download

    access = access_to(hub)
    hf_hub_download(
        MODEL,
        "model.safetensors",
        revision=COMMIT,
        cache_dir=access.cache_dir,
        endpoint=access.endpoint,
        token=False,
    )
    hub.requests.clear()
    download(access)
    assert hub.seen("store") == []


def test_library_finds_what_forge_fetched(hub: LocalHub) -> None:
    from huggingface_hub import snapshot_download

    access = access_to(hub)
    download(access)
    folder = snapshot_download(MODEL, cache_dir=access.cache_dir, local_files_only=True)
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS


def test_progress_ends_at_the_size_of_the_files(hub: LocalHub) -> None:
    reporter = RecordingReporter()
    download(access_to(hub), reporter=reporter)
    assert all(done <= total for done, total in reporter.bytes_done)
    done, total = reporter.bytes_done[-1]
    assert done == total
    assert total > len(WEIGHTS)


def test_gated_model_without_a_token(hub: LocalHub) -> None:
    hub.faults.gated = TOKEN
    page = f"{hub.url}/{MODEL}"
    with refused(
        PrerequisiteError,
        f"{MODEL} is gated and no Hugging Face token is set",
        f"the Hub answered 401; its licence must be accepted at {page}",
        f"hf auth login  # after accepting the licence at {page}",
    ):
        download(access_to(hub))


def test_gated_model_with_a_token_that_may_not_read_it(hub: LocalHub) -> None:
    hub.faults.gated = "hf_another"
    page = f"{hub.url}/{MODEL}"
    with refused(
        CheckpointError,
        f"{MODEL} is gated and this Hugging Face token has no access to it",
        f"the Hub answered 403; its licence must be accepted at {page}",
        f"python3 -m webbrowser {page}  # accept the licence; hf auth login changes the token",
    ):
        download(access_to(hub, token=TOKEN))


def test_gated_preset_names_its_licence(hub: LocalHub) -> None:
    hub.models["bigcode/starcoder"] = hub_files()
    hub.faults.gated = TOKEN
    with pytest.raises(PrerequisiteError) as caught:
        download(access_to(hub), "starcoder")
    assert caught.value.why == (
        "the Hub answered 401; its licence, bigcode-openrail-m, must be accepted at "
        f"{hub.url}/bigcode/starcoder"
    )


def test_gated_model_comes_with_the_right_token(hub: LocalHub) -> None:
    hub.faults.gated = TOKEN
    assert download(access_to(hub, token=TOKEN)).ran


def test_refused_token(hub: LocalHub) -> None:
    hub.faults.invalid_token = TOKEN
    with refused(
        PrerequisiteError,
        f"the Hub rejected the Hugging Face token (401) for {MODEL}",
        "the token is wrong, expired or not allowed to read",
        "hf auth login",
    ):
        download(access_to(hub, token=TOKEN))


def test_missing_model_names_the_nearest_preset(hub: LocalHub) -> None:
    with refused(
        CheckpointError,
        "the Hub has no model bigcod/starcoder",
        "the Hub answered 404: it does not exist; there is no folder bigcod/starcoder either",
        "forge build starcoder",
    ):
        download(access_to(hub, token=TOKEN), "bigcod/starcoder")


def test_missing_model_may_be_private_to_those_without_a_token(hub: LocalHub) -> None:
    with refused(
        CheckpointError,
        "the Hub has no model acme/zzzzzz",
        "the Hub answered 401: it does not exist or is private and needs a token; "
        "there is no folder acme/zzzzzz either",
        "",
    ):
        download(access_to(hub), "acme/zzzzzz")


def test_missing_revision(hub: LocalHub) -> None:
    with refused(
        CheckpointError,
        f"{MODEL} has no revision v9",
        "the Hub answered 404",
        f"forge build {MODEL}",
    ):
        download(access_to(hub), revision="v9")


@pytest.mark.parametrize(
    ("headers", "asks", "sleep_s"),
    [
        ({"Retry-After": "37"}, "it asks to wait 37 s", 37),
        ({"RateLimit": '"api";r=0;t=55'}, "it asks to wait 55 s", 55),
        ({}, "it does not say how long to wait", 60),
    ],
    ids=["retry-after", "ratelimit", "neither"],
)
def test_rate_limit_says_how_long_to_wait(
    hub: LocalHub, headers: dict[str, str], asks: str, sleep_s: int
) -> None:
    hub.faults = Faults(status=429, headers=headers)
    with refused(
        CheckpointError,
        f"the Hub answered 429, too many requests, for {MODEL}",
        f"{asks}; a token raises the limit (hf auth login); what was downloaded is kept",
        f"sleep {sleep_s} && forge build {MODEL}",
    ):
        download(access_to(hub))


def test_broken_hub_is_named_with_its_status(hub: LocalHub) -> None:
    hub.faults.status = 503
    with refused(
        CheckpointError,
        f"the Hub did not serve {MODEL}: it answered 503",
        f"the Hub is {hub.url}",
        f"forge build {MODEL}",
    ):
        download(access_to(hub))


def test_hub_that_does_not_answer(hub: LocalHub) -> None:
    access = access_to(hub)
    hub.__exit__(None, None, None)
    with refused(
        CheckpointError,
        f"cannot reach the Hub at {hub.url} for {MODEL}",
        "[Errno 111] Connection refused",
        f"HF_HUB_OFFLINE=1 forge build {MODEL}  # uses what the Hugging Face cache holds",
    ):
        download(access)


@pytest.mark.parametrize("status", [None, 503], ids=["silent", "broken"])
def test_password_of_the_endpoint_is_never_shown(hub: LocalHub, status: int | None) -> None:
    access = replace(access_to(hub), endpoint=hub.url.replace("//", "//user:s3cret@"))
    if status is None:
        hub.__exit__(None, None, None)
    hub.faults.status = status
    with pytest.raises(ForgeError) as caught:
        download(access)
    error = caught.value
    shown = f"{error.what} {error.why} {error.hint}"
    assert hub.url in shown
    assert "s3cret" not in shown


def test_cut_connection_goes_on_where_it_ended(hub: LocalHub) -> None:
    hub.faults = Faults(cuts=2, cut_after_bytes=15_000)
    result = download(access_to(hub))
    assert (result.entry.files_dir / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [request.range for request in hub.seen("store")]
    assert ranges == [None, "bytes=15000-", "bytes=30000-"]


def test_connection_cut_too_often_keeps_what_came_for_the_next_run(hub: LocalHub) -> None:
    hub.faults = Faults(cuts=MAX_ATTEMPTS, cut_after_bytes=1_000)
    access = access_to(hub)
    with pytest.raises(CheckpointError) as caught:
        download(access)
    assert caught.value.what == f"the connection broke while fetching model.safetensors of {MODEL}"
    assert caught.value.why.endswith("; what was downloaded is kept, and the next run resumes it")
    assert caught.value.hint == f"forge build {MODEL}"
    assert partial_files(access) == [MAX_ATTEMPTS * 1_000]
    hub.requests.clear()
    result = download(access)
    assert [request.range for request in hub.seen("store")] == [f"bytes={MAX_ATTEMPTS * 1_000}-"]
    assert (result.entry.files_dir / "model.safetensors").read_bytes() == WEIGHTS
    assert partial_files(access) == []


def test_host_that_knows_no_ranges_sends_all_of_it_again(hub: LocalHub) -> None:
    hub.faults = Faults(cuts=1, cut_after_bytes=15_000, no_ranges=True)
    reporter = RecordingReporter()
    result = download(access_to(hub), reporter=reporter)
    assert (result.entry.files_dir / "model.safetensors").read_bytes() == WEIGHTS
    assert all(done <= total for done, total in reporter.bytes_done)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_of_the_second_host_is_waited_out(hub: LocalHub, status: int) -> None:
    hub.faults = Faults(store_status=status, store_failures=2, headers={"Retry-After": "0"})
    assert download(access_to(hub)).ran
    assert [request.status for request in hub.seen("store")] == [status, status, 200]


def test_long_wait_of_the_second_host_is_left_to_the_user(hub: LocalHub) -> None:
    hub.faults = Faults(store_status=429, store_failures=1, headers={"Retry-After": "3600"})
    with pytest.raises(CheckpointError) as caught:
        download(access_to(hub))
    assert caught.value.hint == f"sleep 3600 && forge build {MODEL}"


def test_wrong_digest_names_both_and_leaves_nothing(hub: LocalHub) -> None:
    bad = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
    hub.models[MODEL]["model.safetensors"].served = bad
    access = access_to(hub)
    with refused(
        CheckpointError,
        f"model.safetensors of {MODEL} has the wrong digest",
        f"the Hub publishes sha256 {SHA256} ({len(WEIGHTS)} bytes), received "
        f"{hashlib.sha256(bad).hexdigest()} ({len(bad)} bytes); it was removed",
        f"forge build {MODEL}",
    ):
        download(access)
    assert SHA256 not in blobs(access)
    assert partial_files(access) == []
    hub.models[MODEL]["model.safetensors"].served = None
    assert download(access).ran


def test_wrong_digest_of_a_small_file(hub: LocalHub) -> None:
    file = hub.models[MODEL]["tokenizer.json"]
    file.served = b'{"added_tokens": {}}'
    access = access_to(hub)
    with refused(
        CheckpointError,
        f"tokenizer.json of {MODEL} has the wrong digest",
        f"the Hub publishes git object {file.blob_id}, received "
        f"{HubFile(file.served).blob_id}; it was removed",
        f"forge build {MODEL}",
    ):
        download(access)
    assert file.blob_id not in blobs(access)
    file.served = None
    assert download(access).ran


def test_damaged_file_of_the_cache_is_reported_and_comes_again(hub: LocalHub) -> None:
    access, reporter = access_to(hub), RecordingReporter()
    result = download(access)
    blob = repo_dir(access, MODEL) / "blobs" / SHA256
    blob.write_bytes(b"x" * len(WEIGHTS))
    remove_tree(Store(read_settings().cache_dir).entry_dir("download", result.planned.key))
    again = download(access, reporter=reporter)
    assert (again.entry.files_dir / "model.safetensors").read_bytes() == WEIGHTS
    found = hashlib.sha256(b"x" * len(WEIGHTS)).hexdigest()
    assert reporter.warnings == [
        f"{blob} is damaged: its sha256 is {found}; removed, downloading it again"
    ]


def test_token_goes_to_the_hub_and_to_no_other_host(hub: LocalHub) -> None:
    result = download(access_to(hub, token=TOKEN))
    assert {request.authorization for request in hub.seen("hub")} == {f"Bearer {TOKEN}"}
    assert {request.authorization for request in hub.seen("store")} == {None}
    entry_dir = result.entry.files_dir.parent
    written = (entry_dir / "entry.json").read_text() + (
        result.entry.files_dir / "checkpoint.json"
    ).read_text()
    assert TOKEN not in written
    assert TOKEN not in repr(access_to(hub, token=TOKEN))


def test_too_little_disk_is_found_before_the_first_byte(hub: LocalHub) -> None:
    hub.models[MODEL]["model.safetensors"].claimed_size_bytes = 2**60
    access = access_to(hub)
    with pytest.raises(CheckpointError) as caught:
        download(access)
    what, free = caught.value.what.split(" more disk space, ")
    assert what == f"{MODEL} needs 1048576.0 TiB"
    assert re.fullmatch(r"\d+\.\d [MGT]iB is free", free)
    assert caught.value.why == (
        f"the Hugging Face cache is {access.cache_dir}; nothing was downloaded"
    )
    assert caught.value.hint == f"HF_HOME=/larger/disk forge build {MODEL}"
    assert hub.seen("store") == []
    assert hub.seen("hub", "HEAD") == [
        request for request in hub.seen("hub", "HEAD") if "config.json" in request.path
    ]


def test_disk_that_fills_up_on_the_way(hub: LocalHub) -> None:
    access = access_to(hub)
    folder = repo_dir(access, MODEL) / "blobs"
    folder.mkdir(parents=True)
    # The kernel's own full disk: every write to it ends in ENOSPC.
    (folder / f"{SHA256}.forge.incomplete").symlink_to("/dev/full")
    with refused(
        CheckpointError,
        "no space left on the disk of the Hugging Face cache while fetching model.safetensors",
        f"the cache is {access.cache_dir}; complete files were kept",
        f"HF_HOME=/larger/disk forge build {MODEL}",
    ):
        download(access)
    assert SHA256 not in blobs(access)


def test_cache_that_cannot_be_written(hub: LocalHub) -> None:
    access = access_to(hub)
    access.cache_dir.parent.mkdir(parents=True)
    access.cache_dir.write_text("a file where the folder should be")
    with pytest.raises(CheckpointError) as caught:
        download(access)
    assert caught.value.what == f"cannot write to the Hugging Face cache {access.cache_dir}"
    assert caught.value.hint == f"HF_HOME=/another/folder forge build {MODEL}"


def test_id_that_no_model_can_have(hub: LocalHub) -> None:
    with pytest.raises(ConfigError) as caught:
        download(access_to(hub), "acme/ti--ny")
    assert caught.value.exit_code == 2
    assert caught.value.what == '"acme/ti--ny" is not a Hub id'


def test_offline_the_cache_gives_the_same_key(hub: LocalHub) -> None:
    online = download(access_to(hub))
    hub.requests.clear()
    offline = download(access_to(hub, offline=True))
    assert (offline.ran, offline.planned.key) == (False, online.planned.key)
    assert hub.requests == []


def test_offline_a_model_that_is_not_cached_is_refused(hub: LocalHub) -> None:
    access = access_to(hub, offline=True)
    with refused(
        CheckpointError,
        f"{MODEL} at revision main is not in the Hugging Face cache, and forge is offline",
        f"HF_HUB_OFFLINE is set; the cache is {access.cache_dir}",
        f"HF_HUB_OFFLINE=0 forge build {MODEL}",
    ):
        download(access)
    assert hub.requests == []


def test_pickle_weights_are_refused_before_they_come_and_come_when_allowed(hub: LocalHub) -> None:
    del hub.models[MODEL]["model.safetensors"]
    with refused(
        CheckpointError,
        f"{MODEL} has only pickle weights: pytorch_model.bin",
        "loading a pickle runs any code inside it, so forge refuses unless you allow it",
        f"forge build {MODEL} --allow-pickle",
    ):
        download(access_to(hub))
    result = download(access_to(hub), allow_pickle=True)
    assert (result.entry.files_dir / "pytorch_model.bin").exists()


def test_code_of_the_model_comes_only_when_trusted(hub: LocalHub) -> None:
    plain = download(access_to(hub))
    trusted = download(access_to(hub), trust_remote_code=True)
    assert not (plain.entry.files_dir / "modeling_tiny.py").exists()
    assert (trusted.entry.files_dir / "modeling_tiny.py").exists()
    assert plain.planned.key != trusted.planned.key


def test_unknown_architecture_is_found_before_the_weights_come(hub: LocalHub) -> None:
    hub.models[MODEL]["config.json"] = HubFile(b'{"architectures": ["LlavaForCausalLM"]}')
    with pytest.raises(CheckpointError) as caught:
        download(access_to(hub))
    assert caught.value.what == f"{MODEL} has the unknown architecture LlavaForCausalLM"
    assert hub.seen("store") == []


@pytest.fixture
def preset_hub() -> Iterator[LocalHub]:
    with LocalHub({PRESET: hub_files()}) as server:
        yield server


def plan(
    access: HubAccess, model: str = "starcoder", **options: Any
) -> tuple[ResolvedCheckpoint, list[str]]:
    reporter = RecordingReporter()
    checkpoint = resolve_checkpoint(
        model,
        settings=read_settings(),
        reporter=reporter,
        access=access,
        planning=True,
        **options,
    )
    return checkpoint, reporter.warnings


def could_not(reason: str) -> list[str]:
    return [
        f"config.json is not available from the Hub ({reason}): "
        "planned with the numbers that ship with forge",
        "these numbers were not checked against a source: torch_dtype",
    ]


def key_of(checkpoint: ResolvedCheckpoint) -> str:
    settings = read_settings()
    stage = DownloadStage(checkpoint, settings)
    return make_plan([stage], Store(settings.cache_dir))[0].key


def test_plan_of_a_preset_asks_the_hub_first(preset_hub: LocalHub) -> None:
    checkpoint, warnings = plan(access_to(preset_hub))
    assert (checkpoint.source.revision, checkpoint.config.vocab_size) == (COMMIT, 16)
    assert (checkpoint.weights_bytes, checkpoint.notes, warnings) == (len(WEIGHTS), (), [])


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, f"{PRESET} is gated and no Hugging Face token is set"),
        (TOKEN, f"{PRESET} is gated and this Hugging Face token has no access to it"),
    ],
    ids=["no token", "token without the right"],
)
def test_plan_of_a_gated_preset_keeps_what_the_hub_tells_everybody(
    preset_hub: LocalHub, token: str | None, reason: str
) -> None:
    preset_hub.faults.gated = "hf_another"
    checkpoint, warnings = plan(access_to(preset_hub, token=token))
    assert checkpoint.source.revision == COMMIT
    assert checkpoint.weights_bytes == len(WEIGHTS)
    assert checkpoint.config.vocab_size == 49152
    assert warnings == list(checkpoint.notes) == could_not(reason)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (
            Faults(invalid_token=TOKEN),
            f"the Hub rejected the Hugging Face token (401) for {PRESET}",
        ),
        (Faults(status=429), f"the Hub answered 429, too many requests, for {PRESET}"),
        (Faults(status=503), f"the Hub did not serve {PRESET}: it answered 503"),
    ],
    ids=["refused token", "too many requests", "broken hub"],
)
def test_plan_of_a_preset_that_the_hub_does_not_list(
    preset_hub: LocalHub, faults: Faults, reason: str
) -> None:
    preset_hub.faults = faults
    checkpoint, warnings = plan(access_to(preset_hub, token=TOKEN))
    assert (checkpoint.source.revision, checkpoint.files) == (None, ())
    assert (checkpoint.weights_bytes, checkpoint.config.vocab_size) == (None, 49152)
    assert warnings == list(checkpoint.notes) == could_not(reason)


def test_plan_of_a_preset_offline(preset_hub: LocalHub) -> None:
    checkpoint, warnings = plan(access_to(preset_hub, offline=True))
    assert checkpoint.source.revision is None
    gone = f"{PRESET} at revision main is not in the Hugging Face cache"
    assert warnings == could_not(f"{gone}, and forge is offline")
    assert preset_hub.requests == []


def test_plan_of_a_preset_offline_with_a_tokenizer_alone_in_the_cache(preset_hub: LocalHub) -> None:
    from huggingface_hub import hf_hub_download

    access = access_to(preset_hub)
    hf_hub_download(
        PRESET,
        "tokenizer.json",
        cache_dir=access.cache_dir,
        endpoint=access.endpoint,
        token=False,
    )
    checkpoint, warnings = plan(replace(access, offline=True))
    assert (checkpoint.source.revision, len(warnings)) == (None, 2)


def test_plan_of_a_preset_when_nobody_answers(preset_hub: LocalHub) -> None:
    access = access_to(preset_hub)
    preset_hub.__exit__(None, None, None)
    checkpoint, warnings = plan(access, "BigCode/StarCoder")
    assert checkpoint.source.revision is None
    assert warnings == could_not(f"cannot reach the Hub at {preset_hub.url} for {PRESET}")


def test_key_of_a_plan_without_the_hub_is_no_key_of_a_build(preset_hub: LocalHub) -> None:
    access = access_to(preset_hub)
    known = plan(access)[0]
    unknown = plan(replace(access, offline=True))[0]
    assert key_of(known) == download(access, "starcoder").planned.key
    assert key_of(unknown) != key_of(known)


def test_what_the_hub_answers_of_a_preset_stands_in_a_plan_too(preset_hub: LocalHub) -> None:
    with refused(
        CheckpointError,
        f"{PRESET} has no revision v9",
        "the Hub answered 404",
        "forge build starcoder",
    ):
        plan(access_to(preset_hub), revision="v9")
    file = preset_hub.models[PRESET]["config.json"]
    file.served = b"{}"
    with pytest.raises(CheckpointError) as caught:
        plan(access_to(preset_hub))
    assert caught.value.what == f"config.json of {PRESET} has the wrong digest"
    del preset_hub.models[PRESET]
    with pytest.raises(CheckpointError) as caught:
        plan(access_to(preset_hub, token=TOKEN))
    assert caught.value.what == f"the Hub has no model {PRESET}"


def test_plan_of_what_is_no_preset_needs_the_hub(hub: LocalHub) -> None:
    hub.faults.gated = TOKEN
    with pytest.raises(PrerequisiteError) as caught:
        plan(access_to(hub), MODEL)
    assert caught.value.what == f"{MODEL} is gated and no Hugging Face token is set"


def test_build_of_a_gated_preset_never_takes_the_shipped_numbers(preset_hub: LocalHub) -> None:
    preset_hub.faults.gated = TOKEN
    page = f"{preset_hub.url}/{PRESET}"
    with refused(
        PrerequisiteError,
        f"{PRESET} is gated and no Hugging Face token is set",
        "the Hub answered 401; its licence, bigcode-openrail-m, must be accepted at " + page,
        f"hf auth login  # after accepting the licence at {page}",
    ):
        download(access_to(preset_hub), "starcoder")


SCRIPT = """
import sys
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.run import run_plan
from trtllm_forge.pipeline.store import Store
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.config.settings import read_settings
from trtllm_forge.build.stages.download import DownloadStage, resolve_checkpoint

settings, reporter = read_settings(), SilentReporter()
checkpoint = resolve_checkpoint(sys.argv[1], settings=settings, reporter=reporter)
store = Store(settings.cache_dir)
(result,) = run_plan(make_plan([DownloadStage(checkpoint, settings)], store), store, reporter)
print(result.planned.key, result.ran)
"""


def start(hub: LocalHub, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, MODEL],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_variables_of_hugging_face_are_honoured(hub: LocalHub, tmp_path: Path) -> None:
    hub.faults.gated = TOKEN
    home = str(tmp_path / "hf")
    out, err = start(hub, HF_TOKEN=TOKEN, HF_HOME=home).communicate(timeout=60)
    assert err == ""
    key = out.split()[0]
    assert (tmp_path / "hf" / "hub" / "models--acme--tiny" / "blobs" / SHA256).exists()
    hub.requests.clear()
    out, err = start(hub, HF_HUB_OFFLINE="1", HF_HOME=home).communicate(timeout=60)
    assert (out, err) == (f"{key} False\n", "")
    assert hub.requests == []


def test_two_downloads_of_one_model_fetch_it_once(hub: LocalHub) -> None:
    both = [start(hub), start(hub)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [err for _, err in outputs] == ["", ""]
    assert len({out.split()[0] for out, _ in outputs}) == 1
    assert [request.status for request in hub.seen("store")] == [200]
