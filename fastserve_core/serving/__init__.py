"""Starting servers for artifacts, the client of a server, and the answers and graphs of files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
