from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.small_stage import SmallStage, build, lock_after, reasons_to_run
from trtllm_forge.files.staging import remove_tree
from trtllm_forge.pipeline import stage as stage_module
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.run import lock_of
from trtllm_forge.pipeline.stage import stage_key
from trtllm_forge.pipeline.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.files.digest import JsonValue


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_key_is_the_same_for_equal_stages_whatever_the_order_of_their_parameters() -> None:
    one = SmallStage(parameters={"a": 1, "b": {"c": 2, "d": 3}})
    two = SmallStage(parameters={"b": {"d": 3, "c": 2}, "a": 1})
    assert stage_key(one, ["k"]) == stage_key(two, ["k"])
    assert re.fullmatch("[0-9a-f]{64}", stage_key(one, ["k"]))


@pytest.mark.parametrize(
    ("stage", "upstream"),
    [
        (SmallStage(parameters={"precision": "int8"}), ["k"]),
        (SmallStage(parameters={"precision": "int4", "group_size": 64}), ["k"]),
        (SmallStage(parameters={}), ["k"]),
        (SmallStage(tool_versions={"tool": "1.1"}), ["k"]),
        (SmallStage(tool_versions={"other": "1.0"}), ["k"]),
        (SmallStage(name="convert"), ["k"]),
        (SmallStage(), ["other"]),
        (SmallStage(), []),
        (SmallStage(), ["k", "k"]),
    ],
    ids=[
        "parameter",
        "more-parameters",
        "fewer-parameters",
        "tool-version",
        "tool",
        "name",
        "upstream-key",
        "no-upstream",
        "more-upstream",
    ],
)
def test_each_input_alone_changes_the_key(stage: SmallStage, upstream: list[str]) -> None:
    assert stage_key(stage, upstream) != stage_key(SmallStage(), ["k"])


def test_key_changes_with_the_way_keys_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_key(SmallStage(), [])
    monkeypatch.setattr(stage_module, "KEY_VERSION", stage_module.KEY_VERSION + 1)
    assert stage_key(SmallStage(), []) != before


def test_files_and_outputs_do_not_change_the_key() -> None:
    changed = SmallStage(files={"x": b"y"}, outputs=("x",))
    assert stage_key(changed, []) == stage_key(SmallStage(), [])


def test_keys_do_not_depend_on_where_the_store_is(tmp_path: Path) -> None:
    plans = [
        make_plan([SmallStage(name="download"), SmallStage()], Store(tmp_path / name))
        for name in ("here", "there")
    ]
    assert [p.key for p in plans[0]] == [p.key for p in plans[1]]


def test_change_of_a_stage_changes_the_keys_after_it_and_none_before(store: Store) -> None:
    def keys(precision: str) -> list[str]:
        stages = [
            SmallStage(name="download", parameters={}),
            SmallStage(parameters={"precision": precision}),
            SmallStage(name="render", parameters={}),
        ]
        return [planned.key for planned in make_plan(stages, store)]

    int4, int8 = keys("int4"), keys("int8")
    assert [a == b for a, b in zip(int4, int8, strict=True)] == [True, False, False]


def test_plan_changes_nothing_on_disk(store: Store) -> None:
    make_plan([SmallStage()], store)
    assert not store.root.exists()


def test_first_build_says_never_built(store: Store) -> None:
    assert reasons_to_run(store, SmallStage()) == [("never built",)]


def test_fresh_stage_says_which_key_is_in_the_store(store: Store) -> None:
    stage = SmallStage()
    key = build(store, stage)[0].entry.key
    assert make_plan([stage], store)[0].reasons == (f"key {key[:12]} is in the store",)


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        (SmallStage(parameters={"precision": "int8"}), ("precision: int4 -> int8",)),
        (
            SmallStage(parameters={"precision": "int4", "group_size": 64}),
            ("group_size: unset -> 64",),
        ),
        (SmallStage(parameters={}), ("precision: int4 -> unset",)),
        (SmallStage(tool_versions={"tool": "2.0"}), ("version of tool: 1.0 -> 2.0",)),
        (
            SmallStage(parameters={"precision": "x" * 50}, tool_versions={}),
            (f"precision: int4 -> {'x' * 37}...", "version of tool: 1.0 -> unset"),
        ),
        (
            SmallStage(parameters={"precision": True, "sizes": [1, 2]}),
            ("precision: int4 -> true", "sizes: unset -> [1,2]"),
        ),
    ],
    ids=["value", "added", "removed", "tool", "long", "types"],
)
def test_reason_says_what_changed(
    store: Store, changed: SmallStage, reasons: tuple[str, ...]
) -> None:
    lock = lock_after(store, SmallStage())
    assert reasons_to_run(store, changed, previous=lock) == [reasons]


def test_reason_names_the_one_nested_value_that_changed(store: Store) -> None:
    nested = {"tokenizer_dir": None, "tokenizer_type": "auto", "max_queue_size": 0}
    before = SmallStage(parameters={"repository": nested})
    after = SmallStage(parameters={"repository": {**nested, "max_queue_size": 64}})
    lock = lock_after(store, before)
    assert reasons_to_run(store, after, previous=lock) == [("repository.max_queue_size: 0 -> 64",)]


def test_many_changes_are_counted_and_not_all_listed(store: Store) -> None:
    before = SmallStage(parameters={f"file{n}": "a" for n in range(20)})
    after = SmallStage(parameters={f"file{n}": "b" for n in range(20)})
    (reasons,) = reasons_to_run(store, after, previous=lock_after(store, before))
    assert len(reasons) == 9
    assert reasons[-1] == "and 12 more"


def test_lists_and_digests_are_shown_by_what_differs(store: Store) -> None:
    before = SmallStage(parameters={"files": ["a" * 30, "b" * 30], "rules_sha256": "1" * 64})
    after = SmallStage(parameters={"files": ["a" * 30, "c" * 30], "rules_sha256": "2" * 64})
    (reasons,) = reasons_to_run(store, after, previous=lock_after(store, before))
    assert reasons == (
        f"files: without {'b' * 30}, with {'c' * 30}",
        f"rules_sha256: {'1' * 12} -> {'2' * 12}",
    )


def test_stage_after_a_changed_one_says_so(store: Store) -> None:
    render = SmallStage(name="render", parameters={})
    lock = lock_after(store, SmallStage(), render)
    changed = SmallStage(parameters={"precision": "int8"})
    assert reasons_to_run(store, changed, render, previous=lock) == [
        ("precision: int4 -> int8",),
        ("an earlier stage changed",),
    ]


def test_emptied_store_says_that_the_artifact_is_gone(store: Store) -> None:
    stage = SmallStage()
    lock = lock_after(store, stage)
    remove_tree(store.entry_dir("compile", lock.stages["compile"].key))
    assert reasons_to_run(store, stage, previous=lock) == [
        ("its artifact is no longer in the store",)
    ]


def test_new_way_to_compute_keys_is_named_as_the_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_after(store, SmallStage())
    monkeypatch.setattr(stage_module, "KEY_VERSION", stage_module.KEY_VERSION + 1)
    assert reasons_to_run(store, SmallStage(), previous=lock) == [
        ("this forge computes keys differently",)
    ]


def test_forced_stage_says_forced(store: Store) -> None:
    build(store, SmallStage())
    assert reasons_to_run(store, SmallStage(), force={"compile"}) == [("forced",)]


def test_key_and_record_are_of_one_moment_although_an_input_is_edited_during_the_build(
    store: Store, tmp_path: Path
) -> None:
    template = tmp_path / "template"
    template.write_text("old")

    class TemplateStage(SmallStage):
        """Digests a file whenever it is asked, as rendering does with the templates."""

        @property
        def parameters(self) -> Mapping[str, JsonValue]:
            return {"template": template.read_text()}

        @parameters.setter
        def parameters(self, value: Mapping[str, JsonValue]) -> None:
            pass

    def edit(work_dir: Path) -> None:
        template.write_text("new")

    stage = TemplateStage(before_writing=edit)

    results = build(store, stage)

    record = lock_of(results).stages["compile"]
    assert record.parameters == {"template": "old"}
    assert record.key == stage_key(SmallStage(parameters={"template": "old"}), [])
    entry = json.loads((store.entry_dir("compile", record.key) / "entry.json").read_text())
    assert entry["inputs"]["parameters"] == {"template": "old"}
