"""Hook specifications, the registry of plugins, and the contexts of hook calls."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
