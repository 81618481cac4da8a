# The public names of this room, and the modules that define them; imported when they are first used.
from .child import PRELOAD_MODULES as PRELOAD_MODULES
from .child import TERMINAL_SIGNALS as TERMINAL_SIGNALS
from .child import child_main as child_main
from .child import die_with_parent as die_with_parent
from .child import event_writer as event_writer
from .child import ignored_signals as ignored_signals
from .child import run_in_child as run_in_child
from .environment import hide_package as hide_package
from .environment import set_library_environment as set_library_environment
from .environment import suppress_library_output as suppress_library_output
from .fork_pool import can_fork as can_fork
from .processor import Processor as Processor
from .processor import read_processor as read_processor
from .resources import available_memory as available_memory
from .resources import thread_environment as thread_environment
from .resources import threads_per_process as threads_per_process
from .resources import usable_cores as usable_cores
