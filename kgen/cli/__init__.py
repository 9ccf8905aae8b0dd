"""The command `kgen`: drawing, editing, training, measuring, serving and exporting from a shell.

    kgen generate "a red heart"        `command.py` parses the arguments that `arguments.py` defines
    kgen edit photo.jpg "a blue cat"   and calls `run(args, session)` of the module of the command

`kgen --help` must be fast, so no module of this package imports TensorFlow, Keras or NumPy at its
top level. Functions import them, and annotations are not evaluated.
"""
