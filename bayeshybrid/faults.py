"""The three ways in which bayeshybrid refuses: a model, data, or a start that cannot be used.

Each message says what is wrong, where, the offending value, and what to write instead. Nothing inside
compiled code raises; what fails there is counted under a status.
"""

from __future__ import annotations


class ModelError(ValueError):
    """A statement of the model cannot mean what it says, whatever the data.

    ```python
    try:
        bh.prior_interval(3.0, 1.0)
    except ValueError as error:
        assert "low" in str(error)
    ```
    """


class DataError(ValueError):
    """The data cannot be used as they are: the message names the argument and the first cells.

    ```python
    from bayeshybrid.faults import DataError
    assert issubclass(DataError, ValueError)
    ```
    """


class StartError(RuntimeError):
    """No point was found at which the model's density is finite, so no method can begin.

    ```python
    from bayeshybrid.faults import StartError
    assert issubclass(StartError, RuntimeError)
    ```
    """
