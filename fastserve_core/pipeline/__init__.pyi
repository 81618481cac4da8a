# The public names of this room, and the modules that define them; imported when they are first used.
from .record import RunRecord as RunRecord
from .record import StageRecord as StageRecord
from .remote_training import run_remote_trial as run_remote_trial
from .retrain import LOSS_GROUP as LOSS_GROUP
