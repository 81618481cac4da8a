# The public names of this room, and the modules that define them; imported when they are first used.
from .client import AsyncClient as AsyncClient
