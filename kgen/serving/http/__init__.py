"""An HTTP server of a model, with the images API of OpenAI, and a web page.

    requests --limits--> jobs --Batcher, batches of compatible jobs--> backend --> pictures

The backend is a model in this process (`local`) or TensorFlow Serving (`tensorflow_serving`). This
package needs the packages of the extra `serve`.
"""
