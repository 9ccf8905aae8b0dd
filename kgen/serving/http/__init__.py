"""A server of pictures over HTTP, and its page: the images API that existing clients speak.

    requests --limits--> jobs --Batcher, one batch of those that fit--> backend --> pictures

The backend is a model in this process (`local`) or TensorFlow Serving (`tensorflow_serving`). It
needs the packages of the extra `serve`.
"""
