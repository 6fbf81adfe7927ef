"""The errors that exprl raises: one root, one subclass per kind of cause."""


class ExprlError(Exception):
    """Root of every error that exprl raises on purpose."""


class ConfigError(ExprlError):
    """A setting is wrong or settings contradict each other; the message says what to change."""


class DataError(ExprlError):
    """An input row or file cannot be used; the message names the place and the field."""


class JudgeError(ExprlError):
    """The judge as a whole cannot be used (one failed request is a `Verdict`, not an error)."""


class EngineError(ExprlError):
    """The rollout engine failed or lacks something that exprl needs."""


class ProcessError(ExprlError):
    """A process that the run started did not come up, or is lost; the message shows its log."""


class RankError(ExprlError):
    """A process of the trainer was lost; the message names it, its machine and its log."""


class StorageError(ExprlError):
    """What a run must keep could not be written; the message says where it goes on from."""


class NumericsError(ExprlError):
    """A number that must be finite is not, or two numerics that must agree do not."""


class SandboxError(ExprlError):
    """A program that a model wrote could not be run under confinement."""


class VerifierError(ExprlError):
    """An answer could not be compared; that is missing, and not wrong."""


class FunctionError(ExprlError):
    """A function of the user's gave no usable value for one rollout: that is missing, not zero."""
