"""Every error this project raises on purpose, in one tree.

ClipPipelineError                 exit code 1
├── ConfigurationError            3   a setting is missing or contradicts another
│   └── PathRefusedError          4   a path lies outside the configured roots
├── StoreError                    5   a file of the store is missing or cannot be read
│   ├── IntegrityError            6   a file of the store differs from its recorded digest
│   ├── NoSpaceError             14   the disk of the store or of the ledger is full
│   └── LedgerBusyError           5   another process holds the ledger for too long
├── EncoderUnavailableError       7   the encoder's weights cannot be found or do not match their digest
├── FingerprintMismatchError      8   vectors of different encoders would be compared
├── NotFoundError                 9   no job, image or release has that name
├── StackError                   10   the running stack cannot be reached, or one runs already
├── QueryError                   11   a search request cannot be answered as it was put
├── VerificationError            12   `verify` found a fault
└── ConflictError                13   a request contradicts what is recorded already

Bad input *data* (a truncated picture, a vanished file) is never an exception that leaves a function: it is a
row with a reason, see `clip_pipeline.core.reasons`.
"""


class ClipPipelineError(Exception):
    """Root of the tree. The message says what was expected, what was found, and what to do."""

    exit_code = 1


class ConfigurationError(ClipPipelineError):
    """A setting is missing, malformed or contradicts another one."""

    exit_code = 3


class PathRefusedError(ConfigurationError):
    """A path is not absolute, or lies outside the configured roots after resolving symlinks."""

    exit_code = 4


class StoreError(ClipPipelineError):
    """A file of the store is missing, unreadable or could not be written."""

    exit_code = 5


class IntegrityError(StoreError):
    """A file of the store is not the one that its seal or release recorded."""

    exit_code = 6


class NoSpaceError(StoreError):
    """There is no room left where something had to be written; nothing of it was kept."""

    exit_code = 14


class LedgerBusyError(StoreError):
    """Another writer holds the ledger's lock for longer than writers wait; nothing was written."""


class EncoderUnavailableError(ClipPipelineError):
    """The encoder's weights are not there, are of an unsupported family, or fail their digest."""

    exit_code = 7


class FingerprintMismatchError(ClipPipelineError):
    """Two vectors, or a vector and a release, come from encoders with different fingerprints."""

    exit_code = 8


class NotFoundError(ClipPipelineError):
    """A job, image, batch or release of that name does not exist."""

    exit_code = 9


class StackError(ClipPipelineError):
    """The running stack cannot be reached, does not come up, or another one holds this home."""

    exit_code = 10


class QueryError(ClipPipelineError):
    """A search request is malformed: no query, k out of range, a vector of the wrong length."""

    exit_code = 11


class VerificationError(ClipPipelineError):
    """`clip-pipeline verify` found at least one fault."""

    exit_code = 12


class ConflictError(ClipPipelineError):
    """A request contradicts what is recorded: a job that is complete already, a key used for another request."""

    exit_code = 13
