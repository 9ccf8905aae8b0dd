"""Files from strangers: what a file says is checked before a byte of it is believed.

    text.py       JSON and other text, of limited size, depth and number of values
    configs.py    configurations of Keras: which classes they may name
    archives.py   zip files that are nothing else, and the arrays (`.npy`) in them
    hdf5.py       HDF5 files of plain arrays
    records.py    TFRecord files
    checkpoints.py  checkpoints of TensorFlow
    keras_files.py  `.keras` files
    weights.py    arrays as the weights of a model
    budget.py     building a model within what its file of weights holds
    folders.py    which folders may be opened, and writing files in one step

No module here runs, imports or downloads anything that a file names. Sizes are read from headers
and compared with what is expected before memory is taken; what is refused is a `ValueError` of one
sentence with the file, the entry and the reason.
"""
