"""One file a paper, named as in ``fits/published``: ``SOURCE``, and ``rows`` of its figures redone on public tables."""

Row = tuple[str, float, float]
"""What, published, ours."""
