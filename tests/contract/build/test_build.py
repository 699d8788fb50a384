from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoint_builder import checkpoint_files, write_files
from tests.small_stage import RecordingReporter, SmallStage, printed
from trtllm_forge.build.build import prepare_build, run_build
from trtllm_forge.checkpoint.contents import read_checkpoint_config
from trtllm_forge.config.schema import (
    BuildSection,
    CheckpointSection,
    ForgeConfig,
    RepositorySection,
)
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import ConfigError, ForgeError, PrerequisiteError
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.runtimes import openvino
from trtllm_forge.runtimes.openvino import OpenVinoRuntime, convert_tokenizer
from trtllm_forge.triton.repository.repository import read_model_configs

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtllm_forge.build.document import BuildResult, PreparedBuild

FILES = {"engine.json": b"{}", "tokenizer.json": b"{}"}


@pytest.fixture
def checkpoint_dir(tmp_path: Path) -> Path:
    return write_files(tmp_path / "my coder", checkpoint_files())


@pytest.fixture
def compile_stage(monkeypatch: pytest.MonkeyPatch) -> SmallStage:
    """Put a small stage where the twin's export stands, on a machine that has what it needs."""
    stage = SmallStage(files=dict(FILES))

    def stages(_: object, config: ForgeConfig, checkpoint: object) -> list[SmallStage]:
        stage.parameters = {"precision": config.build.precision}
        return [stage]

    monkeypatch.setattr(OpenVinoRuntime, "require_machine", lambda *_, **__: None)
    monkeypatch.setattr(OpenVinoRuntime, "stages", stages)
    return stage


def prepare(model: str | Path | None, precision: Any = "int4", **options: Any) -> PreparedBuild:
    config = ForgeConfig(
        model=None if model is None else str(model),
        runtime="openvino",
        build=BuildSection(precision=precision),
        repository=RepositorySection(**options.pop("repository", {})),
        **options.pop("config", {}),
    )
    return prepare_build(config, read_settings(), SilentReporter(), **options)


def build(model: str | Path, precision: Any = "int4", **options: Any) -> BuildResult:
    return run_build(prepare(model, precision, **options), SilentReporter(), confirm=refuse)


def refuse(question: str) -> bool:
    raise AssertionError(question)


def refusal(call: Callable[[], object], kind: type[ForgeError]) -> tuple[str, int]:
    with pytest.raises(kind) as caught:
        call()
    return printed(caught.value)


def test_build_makes_a_repository_with_a_lock(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    result = build(checkpoint_dir)
    assert result.repository_dir == Path("model_repos/my coder")
    lock = json.loads((result.repository_dir / "forge.lock").read_text())
    assert list(lock["stages"]) == ["check", "compile", "download", "render"]
    assert len(read_model_configs(result.repository_dir)) == 5
    assert not result.skipped


def test_unchanged_rebuild_runs_nothing(checkpoint_dir: Path, compile_stage: SmallStage) -> None:
    build(checkpoint_dir)
    again = build(checkpoint_dir)
    assert again.skipped
    assert compile_stage.runs == 1
    assert [result.ran for result in again.results] == [False] * 4


def test_weights_edited_in_place_are_not_taken_for_an_equal_copy_of_what_they_were(
    tmp_path: Path, compile_stage: SmallStage
) -> None:
    one = write_files(tmp_path / "run1" / "m", checkpoint_files())
    other = write_files(tmp_path / "run2" / "m", checkpoint_files())
    build(one, output_dir=tmp_path / "out1")
    whole = (one / "model.safetensors").read_bytes()
    (one / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    result = build(other, output_dir=tmp_path / "out2").results[0]

    assert result.planned.reasons == (f"the stored artifact {result.planned.key[:12]} is damaged",)
    assert (result.entry.files_dir / "model.safetensors").read_bytes() == whole
    assert build(other, output_dir=tmp_path / "out2").skipped


def test_unchanged_rebuild_reads_no_weights(
    checkpoint_dir: Path, compile_stage: SmallStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(checkpoint_dir)
    opened = Path.open

    def recorded_open(path: Path, *arguments: Any, **options: Any) -> Any:
        mode = arguments[0] if arguments else options.get("mode", "r")
        if path.suffix == ".safetensors" and "b" in mode:
            read.append(path)
        return opened(path, *arguments, **options)

    read: list[Path] = []
    monkeypatch.setattr(Path, "open", recorded_open)
    assert build(checkpoint_dir).skipped
    # Once, for the header: a digest would open it again.
    assert read == [checkpoint_dir / "model.safetensors"]


def test_deleted_repository_is_published_again_without_running_a_stage(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    first = build(checkpoint_dir)
    shutil.rmtree(first.repository_dir)
    again = build(checkpoint_dir)
    assert (first.repository_dir / "forge.lock").is_file()
    assert not again.skipped
    assert [result.ran for result in again.results] == [False] * 4


def test_rebuild_with_another_precision_says_what_changed(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    build(checkpoint_dir, "int4")
    plan = prepare(checkpoint_dir, "int8").plan
    assert [(p.stage.name, p.run, p.reasons) for p in plan if p.run] == [
        ("compile", True, ("precision: int4 -> int8",)),
        ("render", True, ("an earlier stage changed",)),
        ("check", True, ("an earlier stage changed",)),
    ]


def test_changed_option_of_the_repository_renders_and_compiles_nothing(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    build(checkpoint_dir)
    prepared = prepare(checkpoint_dir, repository={"max_queue_size": 64})
    assert [p.reasons for p in prepared.plan if p.run] == [
        ("repository.max_queue_size: 0 -> 64",),
        ("an earlier stage changed",),
    ]
    run_build(prepared, SilentReporter(), confirm=refuse)
    assert compile_stage.runs == 1


def test_forced_compile_that_gives_another_engine_reaches_the_repository(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    engine_path = build(checkpoint_dir).repository_dir / "tensorrt_llm/1/engine/engine.json"
    compile_stage.files["engine.json"] = b'{"new": 1}'
    build(checkpoint_dir, force=frozenset({"compile"}))
    assert engine_path.read_bytes() == b'{"new": 1}'
    assert build(checkpoint_dir).skipped


def warnings_of_a_rebuild(checkpoint_dir: Path) -> list[str]:
    reporter = RecordingReporter()
    prepared = prepare(checkpoint_dir, repository={"max_queue_size": 64})
    run_build(prepared, reporter, confirm=refuse)
    return reporter.warnings


def test_edits_that_a_rebuild_replaces_are_named(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    repository_dir = build(checkpoint_dir).repository_dir
    config_path = repository_dir / "ensemble" / "config.pbtxt"
    config_path.write_text(config_path.read_text().replace("platform", "Platform"))
    write_files(
        repository_dir,
        {"notes.txt": b"mine", "preprocessing/1/__pycache__/model.cpython-311.pyc": b"cache"},
    )
    assert warnings_of_a_rebuild(checkpoint_dir) == [
        "replacing model_repos/my coder discards these changes: "
        "ensemble/config.pbtxt was edited, notes.txt was added"
    ]
    assert not (repository_dir / "notes.txt").exists()


def test_rebuild_of_an_untouched_repository_warns_of_nothing(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    build(checkpoint_dir)
    assert warnings_of_a_rebuild(checkpoint_dir) == []


def test_keys_do_not_depend_on_the_machines_folders(
    tmp_path: Path,
    checkpoint_dir: Path,
    compile_stage: SmallStage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = [planned.key for planned in prepare(checkpoint_dir).plan]
    moved = checkpoint_dir.rename(tmp_path.joinpath("deeper").absolute())
    named = tmp_path / "other" / "my coder"
    named.parent.mkdir()
    moved.rename(named)
    monkeypatch.setenv("FORGE_CACHE_DIR", str(tmp_path / "another cache"))
    assert [planned.key for planned in prepare(named, output_dir=tmp_path / "out").plan] == here


def test_plan_names_stages_reasons_and_the_repository(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    assert prepare(checkpoint_dir).text() == (
        "download run  never built\n"
        "compile  run  never built\n"
        "render   run  never built\n"
        "check    run  never built\n"
        "repository  model_repos/my coder"
    )


def test_document_of_a_build_adds_what_was_done_to_the_plan(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    result = build(checkpoint_dir)
    document = result.document()
    stages = document["stages"]
    assert isinstance(stages, list)
    assert [(stage["name"], stage["run"]) for stage in stages] == [
        ("download", True),
        ("compile", True),
        ("render", True),
        ("check", True),
    ]
    assert all(stage["peak_rss_bytes"] == 0 and stage["seconds"] >= 0 for stage in stages)
    assert (document["repository"], document["lock"], document["skipped"]) == (
        "model_repos/my coder",
        "model_repos/my coder/forge.lock",
        False,
    )
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize(
    ("model", "name"), [("sample", "sample"), ("sample", "mine")], ids=["model", "name"]
)
def test_repository_is_named_after_the_model_unless_it_has_a_name(
    compile_stage: SmallStage, model: str, name: str
) -> None:
    config = {} if name == model else {"name": name}
    assert prepare(model, config=config).output_dir == Path("model_repos") / name


def fraction(model: str | Path, **repository: Any) -> str:
    configs = read_model_configs(build(model, repository=repository).repository_dir)
    value = configs["tensorrt_llm"].parameters["kv_cache_free_gpu_mem_fraction"]
    return str(value.string_value)


def test_kv_cache_fraction_is_the_general_default_unless_the_user_says_otherwise(
    checkpoint_dir: Path, compile_stage: SmallStage
) -> None:
    assert fraction(checkpoint_dir) == "0.9"
    assert fraction(checkpoint_dir, kv_cache_free_gpu_mem_fraction=0.5) == "0.5"


def test_build_without_a_model_is_refused(compile_stage: SmallStage) -> None:
    assert refusal(lambda: prepare(None), ConfigError) == (
        "error: no model was given\n"
        "  why:  neither as an argument nor as `model` in forge.yaml\n"
        "  try:  forge build sample --int4",
        2,
    )


@pytest.mark.parametrize("with_engine", [True, False], ids=["build", "render"])
def test_release_that_is_not_known_is_refused_before_anything_runs(
    checkpoint_dir: Path, compile_stage: SmallStage, with_engine: bool
) -> None:
    config = {"trtllm_version": "1.5.0"}
    call = lambda: prepare("no/such-model", config=config, with_engine=with_engine)  # noqa: E731
    assert refusal(call, ConfigError) == (
        "error: TensorRT-LLM 1.5.0 is not a release that this forge knows\n"
        "  why:  it is newer than 1.4.0rc1, the last one known; releases_file can describe it\n"
        "  try:  forge build no/such-model --runtime openvino --int4 --trtllm-version 1.2.1",
        2,
    )


def test_unknown_stage_to_force_is_refused(checkpoint_dir: Path, compile_stage: SmallStage) -> None:
    call = lambda: prepare(checkpoint_dir, force=frozenset({"compyle"}))  # noqa: E731
    assert refusal(call, ConfigError) == (
        "error: this build has no stage compyle\n"
        "  why:  its stages are download, compile, render, check",
        2,
    )


def test_folder_that_is_not_forges_is_refused_before_anything_runs(
    checkpoint_dir: Path, compile_stage: SmallStage, tmp_path: Path
) -> None:
    output_dir = write_files(tmp_path / "mine", {"thesis.txt": b"mine"})
    text, code = refusal(lambda: prepare(checkpoint_dir, output_dir=output_dir), ConfigError)
    assert text.startswith(f"error: {output_dir} is in the way: it was not built by forge")
    assert code == 2
    assert compile_stage.runs == 0


def test_render_alone_writes_the_repository_of_a_runtime_this_machine_lacks(
    checkpoint_dir: Path, tmp_path: Path
) -> None:
    config = ForgeConfig(model=str(checkpoint_dir), runtime="trtllm")
    output_dir = tmp_path / "out"
    result = run_build(
        prepare_build(
            config, read_settings(), SilentReporter(), output_dir=output_dir, with_engine=False
        ),
        SilentReporter(),
        confirm=refuse,
    )
    configs = read_model_configs(output_dir)
    assert configs["tensorrt_llm"].backend == "tensorrtllm"
    assert [r.planned.stage.name for r in result.results] == ["download", "render", "check"]
    assert (output_dir / "preprocessing/1/tokenizer/tokenizer.json").is_file()


def test_note_says_which_runtime_was_taken(checkpoint_dir: Path, compile_stage: SmallStage) -> None:
    reporter = RecordingReporter()
    config = ForgeConfig(model=str(checkpoint_dir), runtime="openvino")
    prepare_build(config, read_settings(), reporter)
    assert reporter.notes == ["runtime openvino: requested"]


@pytest.mark.parametrize(
    ("section", "text"),
    [
        (
            BuildSection(precision="bf16"),
            "error: runtime openvino does not support precision bf16\n"
            "  why:  it supports fp16, int8, int4\n"
            "  try:  forge build sample --runtime openvino --fp16",
        ),
        (
            BuildSection(precision="int4_awq"),
            "error: runtime openvino does not support precision int4_awq\n"
            "  why:  it supports fp16, int8, int4\n"
            "  try:  forge build sample --runtime openvino --int4",
        ),
        (
            BuildSection(tp_size=2, pp_size=2),
            "error: runtime openvino has world size 1, 4 was requested\n"
            "  why:  build.tp_size = 2, build.pp_size = 2\n"
            "  try:  forge build sample --runtime openvino --tp 1 --pp 1",
        ),
        (
            BuildSection(max_seq_len=65, max_batch_size=8),
            "error: max_seq_len is 65 tokens, but the checkpoint's limit is 64\n"
            "  try:  forge build sample --runtime openvino --max-batch-size 8 --max-seq-len 64",
        ),
    ],
    ids=["precision", "near precision", "world-size", "length"],
)
def test_twin_refuses_what_it_cannot_take(
    checkpoint_dir: Path, section: BuildSection, text: str
) -> None:
    checkpoint = read_checkpoint_config(checkpoint_dir)
    config = ForgeConfig(model="sample", runtime="openvino", build=section)
    call = lambda: OpenVinoRuntime().require_support(config, checkpoint)  # noqa: E731
    assert refusal(call, ConfigError) == (text, 2)


def test_checkpoint_without_a_length_is_built_only_with_one_of_the_users() -> None:
    document = {"architectures": ["BloomForCausalLM"], "model_type": "bloom", "vocab_size": 16}
    config_json = json.dumps(document).encode()
    write_files(Path("my bloom"), checkpoint_files(config__json=config_json))
    checkpoint = read_checkpoint_config(Path("my bloom"))
    config = ForgeConfig(model="my bloom", build=BuildSection(precision="int4"))
    call = lambda: OpenVinoRuntime().require_support(config, checkpoint)  # noqa: E731
    assert refusal(call, ConfigError) == (
        "error: my bloom does not state how many tokens a request may have\n"
        "  why:  its config.json has no max_position_embeddings, and build.max_seq_len is unset\n"
        "  try:  forge build 'my bloom' --int4 --max-seq-len 2048",
        2,
    )
    OpenVinoRuntime().require_support(
        replace(config, build=BuildSection(precision="int4", max_seq_len=2048)),
        checkpoint,
    )


def test_missing_packages_of_the_twin_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ("nncf", "torch")
    monkeypatch.setattr(openvino, "_version", lambda name: None if name in absent else "1")
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    assert refusal(require_machine, PrerequisiteError) == (
        "error: runtime openvino needs nncf, torch\n"
        "  why:  the extra `cpu` is not installed in this environment\n"
        "  try:  pip install 'trtllm-forge[cpu]'",
        3,
    )


def test_python_without_the_numpy_that_triton_needs_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    monkeypatch.setattr("platform.python_version", lambda: "3.13.0")
    assert refusal(require_machine, PrerequisiteError) == (
        "error: runtime openvino needs Python 3.10 to 3.12, this is 3.13.0\n"
        "  why:  the Triton wheel needs numpy below 2, which has no build for Python 3.13\n"
        "  try:  python3.12 -m venv .venv",
        3,
    )


def require_machine() -> None:
    OpenVinoRuntime().require_machine(SilentReporter(), confirm=refuse)


def compile_parameters(**changes: Any) -> Any:
    config = ForgeConfig(build=BuildSection(precision=changes.pop("precision", "int4"), **changes))
    checkpoint = read_checkpoint_config(Path("checkpoint"))
    (stage,) = OpenVinoRuntime().stages(config, checkpoint)
    return stage.parameters


@pytest.mark.parametrize(
    "changes",
    [{"precision": "int8"}, {"group_size": 64}, {"int4_ratio": 0.5}, {"max_seq_len": 32}],
    ids=lambda changes: next(iter(changes)),
)
def test_each_option_of_the_export_changes_its_key(changes: dict[str, Any]) -> None:
    write_files(Path("checkpoint"), checkpoint_files())
    assert compile_parameters(**changes) != compile_parameters()


@pytest.mark.parametrize("package", ["openvino", "optimum", "tokenizers", "openvino-genai"])
def test_version_of_each_package_of_the_export_is_part_of_its_key(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(Path("checkpoint"), checkpoint_files())
    monkeypatch.setattr(openvino, "_version", lambda name: "2" if name == package else "1")
    (stage,) = OpenVinoRuntime().stages(ForgeConfig(), read_checkpoint_config(Path("checkpoint")))
    assert stage.tool_versions[package] == "2"


def test_option_that_only_int4_knows_leaves_the_others_fresh() -> None:
    write_files(Path("checkpoint"), checkpoint_files())
    one, other = (
        compile_parameters(precision="int8"),
        compile_parameters(precision="int8", group_size=64),
    )
    assert one == other


def test_export_is_a_command_that_needs_no_network(tmp_path: Path) -> None:
    write_files(Path("checkpoint"), checkpoint_files())
    config = ForgeConfig(build=BuildSection(precision="int4", group_size=64, int4_ratio=0.8))
    (stage,) = OpenVinoRuntime().stages(config, read_checkpoint_config(Path("checkpoint")))
    (command,) = stage.commands(tmp_path / "work", {"download": Path("checkpoint")})
    assert command.argv[0].endswith("/optimum-cli")
    assert command.argv[1:] == (
        *("export", "openvino", "--model", "checkpoint"),
        *("--task", "text-generation-with-past", "--weight-format", "int4"),
        *("--group-size", "64", "--ratio", "0.8"),
        *("--disable-convert-tokenizer", str(tmp_path / "work")),
    )
    assert command.env["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not-trusted"])
def test_code_of_the_checkpoint_may_run_in_both_children_when_trusted_and_in_neither_else(
    tmp_path: Path, trusted: bool
) -> None:
    files = checkpoint_files(tokenizer__json=None, tokenizer__model=b"sentencepiece")
    write_files(Path("checkpoint"), files)
    config = ForgeConfig(checkpoint=CheckpointSection(trust_remote_code=trusted))
    (stage,) = OpenVinoRuntime().stages(config, read_checkpoint_config(Path("checkpoint")))
    export, convert = stage.commands(tmp_path / "work", {"download": Path("checkpoint")})
    assert ("--trust-remote-code" in export.argv) is trusted
    assert ("--trust-remote-code" in convert.argv) is trusted


def test_tokenizer_is_converted_with_the_trust_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tokenizer:
        """Stands in for transformers' class, which would load the code."""

        @classmethod
        def from_pretrained(cls, folder: Path, **options: bool) -> Tokenizer:
            given.append((folder, options))
            return cls()

        def save_pretrained(self, folder: Path) -> None:
            pass

    given: list[tuple[Path, dict[str, bool]]] = []
    stand_in = SimpleNamespace(AutoTokenizer=Tokenizer)
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    for flags in (["--trust-remote-code"], []):
        monkeypatch.setattr(sys, "argv", ["convert", *flags, "in", str(tmp_path)])
        convert_tokenizer.main()
    assert given == [
        (Path("in"), {"trust_remote_code": True}),
        (Path("in"), {"trust_remote_code": False}),
    ]


def test_rendering_alone_leaves_the_weights_where_they_are(checkpoint_dir: Path) -> None:
    config = ForgeConfig(model=str(checkpoint_dir), runtime="trtllm")
    prepared = prepare_build(config, read_settings(), SilentReporter(), with_engine=False)
    wanted = {output for planned in prepared.plan for output in planned.stage.outputs}
    assert "config.json" in wanted
    assert [output for output in wanted if output.endswith(".safetensors")] == []
