"""The output of ``forge package`` and ``forge unpack``, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.delivery.package import Package, PackagePlan
    from trtllm_forge.delivery.package_index import PackageIndex
    from trtllm_forge.delivery.unpack import Unpacked

SCHEMA = 1


def plan_text(plan: PackagePlan, output_path: Path) -> str:
    """Return what would be packaged, one line per file, folder and link."""
    lines = [f"{size:>14} {path}" for path, size in plan.sizes.items()]
    lines += [f"{'folder':>14} {path}" for path in plan.folders]
    lines += [f"{'link':>14} {link.path} -> {link.target}" for link in plan.links]
    return "\n".join([*lines, f"{plan.size_bytes:>14} bytes to {output_path}"])


def plan_document(plan: PackagePlan, output_path: Path) -> dict[str, Any]:
    """Return what would be packaged, as JSON."""
    return {
        "schema": SCHEMA,
        "package": str(output_path),
        "content_bytes": plan.size_bytes,
        "files": [{"path": path, "size_bytes": size} for path, size in plan.sizes.items()],
        "folders": list(plan.folders),
        "links": [{"path": link.path, "target": link.target} for link in plan.links],
    }


def package_document(package: Package) -> dict[str, Any]:
    """Return what was packaged, as JSON."""
    return {
        "schema": SCHEMA,
        "package": str(package.path),
        "size_bytes": package.size_bytes,
        "sha256": package.sha256,
        **_content(package.index),
    }


def unpacked_document(unpacked: Unpacked, package_path: Path) -> dict[str, Any]:
    """Return what was unpacked, as JSON; ``repository`` is null if it was only verified."""
    output_dir = unpacked.output_dir
    return {
        "schema": SCHEMA,
        "package": str(package_path),
        "repository": None if output_dir is None else str(output_dir),
        **_content(unpacked.index),
    }


def _content(index: PackageIndex) -> dict[str, Any]:
    return {
        "content_sha256": index.sha256,
        "content_bytes": index.size_bytes,
        "files": len(index.files),
    }
