# The public names of this room, and the modules that define them; imported when they are first used.
from .engine import Engine as Engine
from .engines import candidate_engines as candidate_engines
from .engines import load_decoder as load_decoder
from .engines import load_engine as load_engine
from .engines import supports_token_streaming as supports_token_streaming
from .predictor import Predictor as Predictor
from .predictor import describe_prediction as describe_prediction
from .predictor import length_batches as length_batches
