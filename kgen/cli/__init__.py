"""The command `kgen`: pictures, editing, fine-tuning and exports without a line of Python.

    kgen generate "a red heart"        command.py reads the arguments of arguments.py and calls
    kgen edit photo.jpg "a blue cat"   `run(args, session)` of the module of that name

Nothing heavy is imported before the arguments are read: modules of this room import TensorFlow and
the rest of kgen inside of their functions.
"""
