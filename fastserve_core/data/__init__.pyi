# The public names of this room, and the modules that define them; imported when they are first used.
from .columns import ColumnMap as ColumnMap
from .columns import match_inputs as match_inputs
from .dataset import Dataset as Dataset
from .dataset import load_dataset as load_dataset
from .folds import check_folds as check_folds
from .paths import expand_path as expand_path
from .prepare import prepare_dataset as prepare_dataset
from .prepare import prepare_rows as prepare_rows
from .rows import Rows as Rows
from .source import DataSource as DataSource
from .source import FileSource as FileSource
from .source import RawRecord as RawRecord
from .source import Report as Report
from .source import file_source as file_source
from .splits import SPLITS as SPLITS
from .unlabelled import UnlabelledFiles as UnlabelledFiles
from .unlabelled import add_unlabelled as add_unlabelled
