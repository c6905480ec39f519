"""The errors a user can meet. Each message names what is wrong, where, and what to do about it."""


class ExotrackError(Exception):
    """Base of all errors that exotrack raises on purpose; its text is fit for a user to read."""


class InputError(ExotrackError, ValueError):
    """A wrong argument, protocol, sample sheet or metadata: found before any work starts."""


class RunError(ExotrackError):
    """A run that could not be finished after work began; finished videos are kept."""


class VideoError(ExotrackError):
    """A video that cannot be opened, decoded or trusted. In a study it fails alone."""


class BackendError(ExotrackError):
    """A compute backend that was asked for and is not available here."""


class DeviceError(BackendError):
    """A device that failed while it worked."""


class DeviceLostError(DeviceError):
    """A device that this process cannot use any more; another process may."""


class DeviceMemoryError(DeviceError):
    """A device that has no room for the work; less of it at a time may fit."""
