"""The twins these tests look at are built once per run, and served once per module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.triton.served import Served, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.twin import TwinWorkshop


@pytest.fixture(scope="session")
def twin(workshop: TwinWorkshop, fp16_document: dict[str, Any]) -> Iterator[Served]:
    """The exact twin, served as a user would."""
    with serve(workshop, fp16_document["repository"]) as served:
        yield served
