# The public names of this room, and the modules that define them; imported when they are first used.
from .client import AsyncClient as AsyncClient
from .graph_prediction import GraphWriter as GraphWriter
from .knowledge_graph import Aliases as Aliases
from .knowledge_graph import Entity as Entity
from .knowledge_graph import KnowledgeGraph as KnowledgeGraph
from .knowledge_graph import Relation as Relation
from .knowledge_graph import describe_entity as describe_entity
from .row_input import RowRequest as RowRequest
from .row_input import catch_signals as catch_signals
from .windows import answer_window as answer_window
