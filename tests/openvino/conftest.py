"""The twins these tests look at are built once per run."""

from tests.twin import fp16_document, int4_document, workshop

__all__ = ["fp16_document", "int4_document", "workshop"]
