"""Tasks on text: how rows become token ids, which head, how outputs become answers, which scores.

``TextTask`` is the base for tasks of other packages.
"""

from fastserve_text.base import TextTask

__all__ = ["TextTask"]
