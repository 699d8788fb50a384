"""FL201 to FL219: an ensemble's steps and the wires between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtllm_forge.check.model import Model, Step, Tensor, Wire
    from trtllm_forge.check.view import RepositoryView


@rule("FL201", "step-model", "error")
def step_model(view: RepositoryView) -> Iterable[Problem]:
    """Every step names a model of the repository.

    Why: Triton says `depends on ... which has no loaded version` and loads no ensemble.
    Fix: Write the name of a folder of the repository.
    """
    for model in view.of_role("ensemble"):
        for step in model.steps:
            if step.model_name == model.folder:
                message = f"a step of {model.folder} is {model.folder} itself"
            elif step.model_name in view.by_name:
                continue
            else:
                message = f"a step names model {step.model_name or '(none)'}, which does not exist"
            near = nearest(step.model_name, view.by_name)
            yield Problem(
                model=model.folder,
                path=model.path,
                line=step.line,
                message=message,
                hint=f'model_name: "{near}"' if near else "",
            )


@rule("FL202", "step-version", "error")
def step_version(view: RepositoryView) -> Iterable[Problem]:
    """The version of every step exists.

    Why: -1 means the newest; any other number needs a folder of that name.
    Fix: `model_version: -1`.
    """
    for model, step, target in _steps(view):
        if step.model_version == -1 or not target.versions:
            continue
        if str(step.model_version) not in target.versions:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=step.line,
                message=f"the step takes version {step.model_version} of {target.folder}, "
                f"which has {', '.join(target.versions)}",
                hint="model_version: -1",
            )


@rule("FL203", "step-tensor", "error")
def step_tensor(view: RepositoryView) -> Iterable[Problem]:
    """A step maps only tensors that its model has.

    Why: The key of a map is the name that the model itself uses for the tensor.
    Fix: Use the name in the model's own configuration.
    """
    for model, step, target in _steps(view):
        for word, wires, tensors in (
            ("input", step.inputs, target.inputs),
            ("output", step.outputs, target.outputs),
        ):
            names = [tensor.name for tensor in tensors]
            for wire in wires:
                if wire.inner in names:
                    continue
                near = nearest(wire.inner, names)
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=wire.line,
                    message=f"{target.folder} has no {word} {wire.inner}",
                    hint=f'key: "{near}"' if near else "",
                )


@rule("FL204", "step-input-missing", "error")
def step_input_missing(view: RepositoryView) -> Iterable[Problem]:
    """A step maps every input that its model requires.

    Why: Only inputs that are optional may be left out.
    Fix: Map the input, or make it optional in the model.
    """
    for model, step, target in _steps(view):
        mapped = {wire.inner for wire in step.inputs}
        for tensor in target.inputs:
            if not tensor.is_optional and tensor.name not in mapped:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=step.line,
                    message=f"input {tensor.name} of {target.folder} is not mapped, "
                    "and it is not optional",
                )


@rule("FL205", "wire-source", "error")
def wire_source(view: RepositoryView) -> Iterable[Problem]:
    """Every tensor that a step reads has a source.

    Why: A tensor comes from the ensemble's inputs or from another step.
    Fix: Use the name of an input of the ensemble or of a tensor that a step produces.
    Upstream: https://github.com/triton-inference-server/server/issues/3337
    """
    for model in view.of_role("ensemble"):
        made = [wire.outer for step in model.steps for wire in step.outputs]
        sources = [*(tensor.name for tensor in model.inputs), *made]
        for step in model.steps:
            for wire in step.inputs:
                if wire.outer not in sources:
                    near = nearest(wire.outer, sources)
                    yield Problem(
                        model=model.folder,
                        path=model.path,
                        line=wire.line,
                        message=f"nothing produces {wire.outer}, which {step.model_name} reads",
                        hint=f'value: "{near}"' if near else "",
                    )


@rule("FL206", "wire-type", "error")
def wire_type(view: RepositoryView) -> Iterable[Problem]:
    """Both ends of a connection have the same type.

    Why: Triton compares the types of every connection and refuses the ensemble.
    Fix: Use the type that the model reads at both ends.
    Upstream: https://github.com/triton-inference-server/server/issues/2885
    """
    for model, wire, name, source, target, owner in _wires(view):
        if source.data_type and target.data_type and source.data_type != target.data_type:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=wire.line,
                message=f"{name} is {source.data_type}, but {target.name} of {owner} is "
                f"{target.data_type}",
            )


@rule("FL207", "wire-dims", "error")
def wire_dims(view: RepositoryView) -> Iterable[Problem]:
    """Both ends of a connection have the same shape.

    Why: Triton compares the dims of every connection, batch axis included; -1 matches any size.
    Fix: Use the same dims at both ends.
    """
    for model, wire, name, source, target, owner in _wires(view):
        if source.dims and target.dims and not _fits(source.dims, target.dims):
            yield Problem(
                model=model.folder,
                path=model.path,
                line=wire.line,
                message=f"{name} is {source.shown_dims}, but {target.name} of {owner} is "
                f"{target.shown_dims}",
            )


@rule("FL208", "ensemble-output", "error")
def ensemble_output(view: RepositoryView) -> Iterable[Problem]:
    """Every output of an ensemble is produced by a step.

    Why: An output that no step produces stops the ensemble from loading.
    Fix: Map a step's output to it, or remove it.
    Upstream: https://github.com/triton-inference-server/server/issues/3337
    """
    for model in view.of_role("ensemble"):
        made = [wire.outer for step in model.steps for wire in step.outputs]
        for tensor in model.outputs:
            if tensor.name not in made and model.steps:
                near = nearest(tensor.name, made)
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=tensor.line,
                    message=f"no step makes the output {tensor.name}",
                    hint=f"the nearest is {near}" if near else "",
                )


@rule("FL209", "wire-doubled", "error")
def wire_doubled(view: RepositoryView) -> Iterable[Problem]:
    """Every tensor of an ensemble is produced by one step.

    Why: Two steps that produce one tensor would race.
    Fix: Rename one of the two.
    """
    for model in view.of_role("ensemble"):
        makers = {tensor.name: "the ensemble's input" for tensor in model.inputs}
        for step in model.steps:
            for wire in step.outputs:
                if wire.outer in makers:
                    yield Problem(
                        model=model.folder,
                        path=model.path,
                        line=wire.line,
                        message=f"{step.model_name} makes {wire.outer}, as does "
                        f"{makers[wire.outer]}",
                    )
                makers.setdefault(wire.outer, step.model_name)


@rule("FL210", "wire-unused", "error")
def wire_unused(view: RepositoryView) -> Iterable[Problem]:
    """Every tensor that a step produces is used.

    Why: Triton refuses an ensemble that produces a tensor and does not use it.
    Fix: Declare it as an output of the ensemble, or remove the entry from the map.
    """
    for model in view.of_role("ensemble"):
        used = {wire.outer for step in model.steps for wire in step.inputs}
        used |= {tensor.name for tensor in model.outputs}
        for step in model.steps:
            for wire in step.outputs:
                if wire.outer not in used:
                    yield Problem(
                        model=model.folder,
                        path=model.path,
                        line=wire.line,
                        message=f"{step.model_name} makes {wire.outer}, which nothing uses",
                    )


@rule("FL211", "ensemble-input-unused", "error")
def ensemble_input_unused(view: RepositoryView) -> Iterable[Problem]:
    """Every input of an ensemble is used by a step.

    Why: Triton refuses an ensemble with an unused input.
    Fix: Map it to a step, or remove it.
    """
    for model in view.of_role("ensemble"):
        used = {wire.outer for step in model.steps for wire in step.inputs}
        for tensor in model.inputs:
            if tensor.name not in used and model.steps:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=tensor.line,
                    message=f"no step takes the input {tensor.name}",
                )


@rule("FL212", "optional-into-needed", "warning")
def optional_into_needed(view: RepositoryView) -> Iterable[Problem]:
    """An input that a step requires is not optional in the ensemble.

    Why: A request without the input ends in `unexpected deadlock` inside the ensemble.
    Fix: Remove `optional: true`, or make the step's input optional.
    Upstream: https://github.com/triton-inference-server/server/issues/3894,
        https://github.com/triton-inference-server/server/issues/4260
    """
    for model, step, target in _steps(view):
        for wire in step.inputs:
            outer, inner = model.input(wire.outer), target.input(wire.inner)
            if outer is None or inner is None or not outer.is_optional or inner.is_optional:
                continue
            yield Problem(
                model=model.folder,
                path=model.path,
                line=outer.line,
                message=f"{outer.name} is optional, but {inner.name} of {target.folder} is not",
            )


@rule("FL213", "map-key-doubled", "error")
def map_key_doubled(view: RepositoryView) -> Iterable[Problem]:
    """A step maps every tensor only once.

    Why: When a key appears twice, the last one is used and the other connection is lost.
    Fix: Keep one of the two.
    """
    for model in view.of_role("ensemble"):
        for step in model.steps:
            for word, wires in (("input", step.inputs), ("output", step.outputs)):
                seen: dict[str, str] = {}
                for wire in wires:
                    if wire.inner in seen:
                        yield Problem(
                            model=model.folder,
                            path=model.path,
                            line=wire.line,
                            message=f"{word} {wire.inner} of {step.model_name} is mapped twice",
                            severity="warning" if seen[wire.inner] == wire.outer else None,
                        )
                    seen[wire.inner] = wire.outer


def _steps(view: RepositoryView) -> Iterator[tuple[Model, Step, Model]]:
    """Give each step with its ensemble and its model, as far as that is there."""
    for model in view.of_role("ensemble"):
        for step in model.steps:
            target = view.by_name.get(step.model_name)
            if target is not None and target is not model and target.is_whole:
                yield model, step, target


def _wires(view: RepositoryView) -> Iterator[tuple[Model, Wire, str, Tensor, Tensor, str]]:
    """Give both ends of each wire: ensemble, wire, name, its source, its target, whose it is."""
    for model in view.of_role("ensemble"):
        sources: dict[str, Tensor] = {tensor.name: tensor for tensor in model.inputs}
        for _, step, target in ((m, s, t) for m, s, t in _steps(view) if m is model):
            for wire in step.outputs:
                tensor = target.output(wire.inner)
                if tensor is not None:
                    sources.setdefault(wire.outer, tensor)
                    declared = model.output(wire.outer)
                    if declared is not None:
                        yield model, wire, tensor.name, tensor, declared, model.folder
        for _, step, target in ((m, s, t) for m, s, t in _steps(view) if m is model):
            for wire in step.inputs:
                source, tensor = sources.get(wire.outer), target.input(wire.inner)
                if source is not None and tensor is not None:
                    yield model, wire, wire.outer, source, tensor, target.folder


def _fits(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if len(one) != len(other):
        return False
    return all(a == b or "-1" in (a, b) or "${" in a + b for a, b in zip(one, other, strict=True))
