"""The models of ``tests.triton.mock_repository``, run by a real Triton."""
