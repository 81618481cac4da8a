# The public names of this room, and the modules that define them; imported when they are first used.
from .components import list_components as list_components
from .components import load_for_task as load_for_task
from .components import load_pretrained as load_pretrained
from .components import own_code_error as own_code_error
from .components import register_component as register_component
from .converters import convert_checkpoint as convert_checkpoint
from .converters import needs_conversion as needs_conversion
from .download import fetch_package as fetch_package
from .resolve import resolve_model as resolve_model
from .weights import LoadedModel as LoadedModel
