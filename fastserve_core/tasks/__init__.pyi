# The public names of this room, and the modules that define them; imported when they are first used.
from .generation import KV_BLOCK_SIZE as KV_BLOCK_SIZE
from .generation import DecodeEngine as DecodeEngine
from .generation import IncrementalDetokenizer as IncrementalDetokenizer
from .generation import SequenceChunk as SequenceChunk
from .generation import TextCodec as TextCodec
from .load import load_task as load_task
from .task import UNLABELLED as UNLABELLED
from .task import Arrays as Arrays
from .task import Column as Column
from .task import Encoded as Encoded
from .task import Encoder as Encoder
from .task import Row as Row
from .task import Task as Task
