"""Text classification: one label for a text, or for a pair of texts."""

from fastserve_text.text_classification.task import Options, TextClassification

__all__ = ["Options", "TextClassification"]
