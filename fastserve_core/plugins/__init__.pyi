# The public names of this room, and the modules that define them; imported when they are first used.
from .contexts import AuxiliaryLoss as AuxiliaryLoss
from .contexts import Budget as Budget
from .contexts import Run as Run
from .contexts import Server as Server
from .contexts import StagedArtifact as StagedArtifact
from .contexts import TrialRequest as TrialRequest
from .contexts import TrialResult as TrialResult
from .hookspecs import API_VERSION as API_VERSION
from .hookspecs import hookimpl as hookimpl
from .registry import CONFIG_SECTIONS as CONFIG_SECTIONS
from .registry import ActivePlugin as ActivePlugin
from .registry import Registry as Registry
from .registry import load_plugin as load_plugin
