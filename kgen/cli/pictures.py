"""Picture files of a person, read for editing; what cannot be read is an error of the command."""

from kgen.cli.errors import CommandError, UsageError, one_line


def open_upright(path):
    """Returns a picture of any kind as a `kgen.fitting.Picture`.

    Raises:
        CommandError: if it cannot be read.
        UsageError: if there is no such file.
    """
    from kgen.data.picture_files import open_picture
    from kgen.fitting import upright

    if not path.is_file():
        raise UsageError(f"no file {path}")
    try:
        with open_picture(path) as file:
            return upright(file)
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise CommandError(f"{path} is no picture that can be read: {one_line(error)}") from error


def open_mask(path, size):
    """Returns a mask of a picture's size, float32 `[H, W]` in [0, 1]: bright is to be painted."""
    from kgen.fitting import brightness

    mask = brightness(open_upright(path), size)
    if not mask.any():
        raise UsageError(f"{path} has nothing that is white, so there is nothing to paint")
    return mask
