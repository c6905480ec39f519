"""The result folder: nothing half-done ever counts, and everything in it reads back as tables.

A run that was killed leaves finished videos, which the next run keeps, and no others. Parquet files hold no times and
no paths: the same input and protocol give the same bytes.
"""

from exotrack.storage.dataset import StudyTable as StudyTable
from exotrack.storage.files import complete as complete
from exotrack.storage.files import completion as completion
from exotrack.storage.files import read_json as read_json
from exotrack.storage.files import remove as remove
from exotrack.storage.files import replacing as replacing
from exotrack.storage.files import replacing_folder as replacing_folder
from exotrack.storage.files import write_bytes as write_bytes
from exotrack.storage.files import write_json as write_json
from exotrack.storage.folder import VIDEO_TABLES as VIDEO_TABLES
from exotrack.storage.folder import begin as begin
from exotrack.storage.folder import check as check
from exotrack.storage.folder import is_results as is_results
from exotrack.storage.folder import read_record as read_record
from exotrack.storage.folder import remove_leftovers as remove_leftovers
from exotrack.storage.folder import update_record as update_record
from exotrack.storage.results import Results as Results
from exotrack.storage.results import open_results as open_results
from exotrack.storage.tables import read_parquet as read_parquet
from exotrack.storage.tables import read_table as read_table
from exotrack.storage.tables import read_tracks as read_tracks
from exotrack.storage.tables import write_csv as write_csv
from exotrack.storage.tables import write_parquet as write_parquet
from exotrack.storage.tables import write_table as write_table
