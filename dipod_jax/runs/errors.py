"""What can be wrong with a run on the disk. Each message is one line that names the file and the way out."""


class RunFolderError(Exception):
    """The folder cannot be used as asked: not a run's, not empty, not writable, damaged."""


class CheckpointError(Exception):
    """A checkpoint cannot be used: torn, damaged, or of another program."""
