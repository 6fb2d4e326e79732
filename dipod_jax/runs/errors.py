"""What can be wrong with a run on the disk. Each message is one line that names the file and the way out."""


class RunFolderError(Exception):
    """The folder cannot be used as asked: not a run's, not empty, not writable, damaged, in use."""


class CheckpointError(Exception):
    """A checkpoint cannot be used or made: torn, damaged, of another program, refused by the disk."""


class MachineError(Exception):
    """This machine lacks what was asked for, or the processes of one run cannot work together."""


class TaskError(ValueError):
    """A task of the user's own is not what a run needs, or its code fails."""


class StorageError(OSError):
    """What the run has to leave behind cannot be written any more; the command ends with `EXIT_STATUS`."""

    EXIT_STATUS = 74  # EX_IOERR of sysexits.h


class NumbersError(ArithmeticError):
    """Gradients are no longer finite and training cannot go on; the command ends with `EXIT_STATUS`."""

    EXIT_STATUS = 65  # EX_DATAERR of sysexits.h


def reason_of(error: BaseException) -> str:
    """Why `error` happened, in a few words on one line: the system's own for an OSError, else its message's start."""
    if isinstance(error, StorageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]}..."
