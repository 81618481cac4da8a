"""The nodes and groups of the configuration, and options as dataclasses."""
