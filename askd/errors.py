"""What the user can mend: every error here is one line that names the thing and the remedy; the verbs print it and exit 2."""


class AskdError(Exception):
    """Base of all errors that are the input's fault, not the program's."""


class DataError(AskdError):
    """A dataset, file or record that is missing, corrupt or not what was expected."""


class RecipeError(AskdError):
    """A recipe, key or value that does not exist or does not fit."""


class CheckpointError(AskdError):
    """A checkpoint or run folder that is missing, corrupt, or of another recipe or architecture."""


class TrainingError(AskdError):
    """Training cannot go on: a non-finite loss, say."""
