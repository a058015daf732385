"""The base of what the services raise; each names its own failures beside its use case."""


class ServiceError(Exception):
    """An act that did not happen. The message is a sentence for the person who asked for it."""

    message = "This could not be done."

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.message)


class InvalidInput(ServiceError):
    """What was given is not acceptable; `field` names the input that it stands beside."""

    field = "value"


class UnknownUser(ServiceError):
    """There is no account of this name, here or in the predecessor's files."""

    message = "There is no account of this name."
