"""The one error that a person can cause and mend."""


class InputError(ValueError):
    """Something given from outside does not hold.

    The text says what must hold and what came; `hint` says what to do. Commands print both on one line
    and exit with `exit_code`, never with a traceback.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:  # errors cross process borders, and so must the hint
        return _rebuild, (type(self), str(self), self.hint)


def _rebuild(kind: type[InputError], message: str, hint: str) -> InputError:
    return kind(message, hint=hint)
