# The public names of this room, and the modules that define them; imported when they are first used.
from .gate import Speedup as Speedup
from .measure import measure_artifact as measure_artifact
