# The public names of this room, and the modules that define them; imported when they are first used.
from .groups import config_dir as config_dir
from .groups import group_choices as group_choices
from .nodes import SEPARATORS as SEPARATORS
from .nodes import DataOptions as DataOptions
from .nodes import ModelSpec as ModelSpec
from .nodes import PackagePin as PackagePin
from .options import parse_options as parse_options
