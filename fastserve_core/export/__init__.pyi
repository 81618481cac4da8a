# The public names of this room, and the modules that define them; imported when they are first used.
from .export import export_artifact as export_artifact
from .formats import ExportFormat as ExportFormat
from .formats import FormatReader as FormatReader
from .formats import load_format as load_format
from .formats import wrap_export_errors as wrap_export_errors
from .reasons import explain_export_error as explain_export_error
from .reasons import fixed_shape_message as fixed_shape_message
from .verify import compare_outputs as compare_outputs
