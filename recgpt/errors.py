"""Every error this package raises on purpose.

    RecGPTError
    +-- ConfigError                 a setting is wrong or unknown
    +-- DataError                   an input file cannot be read as what it should be
    +-- DependencyError             a package is missing, or two that exclude each other are installed
    +-- CheckpointError             a checkpoint is missing, damaged or not ours
    +-- OutputError                 results cannot be written (read-only folder, full disk)
    +-- ExportError                 a model cannot be exported
    |   +-- ParityError             an exported graph does not agree with PyTorch
    +-- BundleError                 a bundle is missing or incomplete
    |   +-- BundleCorruptError      a file of the bundle is not the one that was exported
    |   +-- BundleMismatchError     model, index or server come from different exports
    +-- RequestError                a recall request is malformed
    |   +-- QuotaError              quotas do not fit k
    |   +-- ShortfallError          the catalogue cannot give k unseen items
    +-- LaunchError                 the Triton server cannot be started
    +-- ServerError                 the server answered with an error
        +-- ServerUnavailableError  no server, or it is shutting down
        +-- ServerTimeoutError      the deadline passed
        +-- ServerOverloadedError   the server's queue or a size limit refused the request
        |   +-- RequestTooLargeError  a message is larger than may be sent or received
        +-- ServerRefusedError      not authenticated, or not permitted
        |   +-- CertificateError    the encrypted connection failed: a certificate is wrong, expired or missing
        +-- ModelUnavailableError   the server does not serve the model that is needed

Messages say what was given, what was expected, and what to do.
"""

from __future__ import annotations


class RecGPTError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigError(RecGPTError, ValueError):
    """A setting is out of range, of the wrong type, or unknown."""


class DataError(RecGPTError, ValueError):
    """An input file does not hold what its format promises; names the file and, where there is one, the line."""


class DependencyError(RecGPTError, ImportError):
    """A package that is needed is missing, or packages that exclude each other are both installed."""


class CheckpointError(RecGPTError):
    """A checkpoint is missing, truncated, or was not written by this package."""


class OutputError(RecGPTError, OSError):
    """Results cannot be written; what was there before is untouched."""


class ExportError(RecGPTError):
    """A model cannot be exported; the previous export is untouched."""


class ParityError(ExportError):
    """An exported graph and the PyTorch model disagree by more than the stated tolerance."""


class BundleError(RecGPTError):
    """A bundle is missing, incomplete, or of a format this version cannot read."""


class BundleCorruptError(BundleError):
    """A file of the bundle differs from the hash in its manifest."""


class BundleMismatchError(BundleError):
    """Parts of different exports were about to be combined: model and index, or server and bundle."""


class RequestError(RecGPTError, ValueError):
    """A recall request is malformed: wrong type, shape or range."""


class QuotaError(RequestError):
    """The quotas are not positive whole numbers that sum to k."""


class ShortfallError(RequestError):
    """The catalogue cannot give as many items as were asked for.

    Attributes:
        requested: k as asked for.
        available: how many distinct items could have been given.
    """

    def __init__(self, message: str, *, requested: int, available: int) -> None:
        super().__init__(message)
        self.requested = requested
        self.available = available


class LaunchError(RecGPTError):
    """The Triton server cannot be started on this machine as it is."""


class ServerError(RecGPTError):
    """The server answered a call with an error that no narrower class describes."""


class ServerUnavailableError(ServerError):
    """No server answers at the address, or it is shutting down."""


class ServerTimeoutError(ServerError):
    """The deadline of the call passed before the answer came."""


class ServerOverloadedError(ServerError):
    """The server refused the request because a queue or a size limit was reached."""


class RequestTooLargeError(ServerOverloadedError):
    """A request or its answer is larger than one message may be; the same again would be too large again."""


class ServerRefusedError(ServerError):
    """The server does not accept this caller: not authenticated, or not permitted."""


class CertificateError(ServerRefusedError):
    """The encrypted connection cannot be made: a certificate is wrong, expired, or missing, on either side."""


class ModelUnavailableError(ServerError):
    """The server is up but does not serve the model, or the version of it, that is needed."""
