"""Hook specifications, the registry of plugins, and the contexts that hooks are given."""
