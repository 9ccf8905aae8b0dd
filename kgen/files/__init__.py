"""Safe reading of untrusted files: their content is validated before it is used.

    text.py         JSON and other text, of limited size, depth and number of values
    configs.py      configurations of Keras: the classes that they may name
    archives.py     zip files without hidden data, and the arrays (`.npy`) in them
    hdf5.py         HDF5 files of plain arrays
    safetensors.py  headers of safetensors files
    records.py      TFRecord files
    checkpoints.py  checkpoints of TensorFlow
    keras_files.py  `.keras` files
    weights.py      assigning the arrays of a file to the weights of a model
    budget.py       limiting the variables of a model to those that its weights file holds
    folders.py      the folders that may be opened, and flushing files to disk

No module here runs, imports or downloads anything that a file names. Sizes are read from headers
and compared with the expected ones before memory is allocated. A file that is rejected raises a
`ValueError` whose message names the file, the entry and the reason in one sentence.
"""
