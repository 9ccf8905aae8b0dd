"""A callback that stops a training in which all steps are skipped."""

import keras

from kgen.checks import check_count


class Guard(keras.callbacks.Callback):
    """Stops a training after a number of consecutive skipped steps.

    `compile(skip_above=...)` skips every step whose gradient is not finite or too large, and counts
    them; a single one does no harm. After `stop_after` consecutive ones the training has failed: an
    error names the terms of the loss that are not finite. The weights are those of the last step
    that was not skipped.

    Args:
        stop_after: number of consecutive skipped steps.

    Raises:
        ValueError: if `stop_after` is not a positive integer, or, in `fit`, if the model was
            compiled without `skip_above`.
        FloatingPointError: in `fit`, after that many skipped steps.

    Example:
        >>> Guard(stop_after=5).stop_after
        5
    """

    def __init__(self, stop_after: int = 10) -> None:
        super().__init__()
        check_count("stop_after", stop_after)
        self.stop_after = stop_after

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks that the model skips steps."""
        if self.model.skip_above is None:
            raise ValueError(
                "`Guard` needs a model compiled with `skip_above`, for example "
                "`compile(skip_above=float('inf'))`, which skips steps with a gradient that is not "
                "finite."
            )

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Raises the error after `stop_after` skipped steps."""
        skipped = int(self.model.skipped_in_a_row.numpy())
        if skipped < self.stop_after:
            return
        terms = self.model.broken_terms
        reason = f"Not finite: {', '.join(terms)}." if terms else "All terms are finite."
        raise FloatingPointError(
            f"{skipped} steps in a row had a gradient that is not finite or larger than "
            f"`skip_above`={self.model.skip_above:g} and were skipped. {reason} The weights are "
            "those of the last good step."
        )
