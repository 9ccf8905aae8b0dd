"""A stand-in for TensorFlow Serving: its REST interface, as documented, before a SavedModel.

https://www.tensorflow.org/tfx/serving/api_rest: model status, metadata, and predict in the format
of columns; strings whose name ends in `_bytes` are sent as base64.
"""

import base64
import contextlib
import http.server
import json
import threading

import tensorflow as tf


def metadata(loaded, name):
    """The answer of GET /v1/models/NAME/metadata."""

    def described(spec):
        dims = [{"size": str(-1 if d is None else d), "name": ""} for d in spec.shape]
        kind = f"DT_{spec.dtype.name.upper()}"
        return {"dtype": kind, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": ""}

    definitions = {}
    for key, function in loaded.signatures.items():
        inputs = function.structured_input_signature[1]
        definitions[key] = {
            "inputs": {k: described(v) for k, v in inputs.items()},
            "outputs": {k: described(v) for k, v in function.structured_outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": "1"},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def predict(loaded, body):
    """The answer of POST /v1/models/NAME:predict with `inputs`, as status and body."""
    function = loaded.signatures.get(body.get("signature_name", "serving_default"))
    if function is None:
        return 400, {"error": "Serving signature key not found."}
    specs = function.structured_input_signature[1]
    try:
        inputs = {k: tf.constant(v, specs[k].dtype) for k, v in body["inputs"].items()}
        outputs = function(**inputs)
    except (KeyError, TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        return 400, {"error": str(error)}
    values = {}
    for key, tensor in outputs.items():
        value = tensor.numpy().tolist()
        if key.endswith("_bytes"):
            value = [{"b64": base64.b64encode(item).decode()} for item in value]
        values[key] = value
    return 200, {"outputs": values if len(values) > 1 else next(iter(values.values()))}


@contextlib.contextmanager
def tensorflow_serving(loaded, name="model"):
    """Serves a SavedModel; yields the URL and the list of the calls of its functions."""
    calls = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            if self.path == f"/v1/models/{name}":
                state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK"}}
                self.answer(200, {"model_version_status": [state]})
            elif self.path == f"/v1/models/{name}/metadata":
                self.answer(200, metadata(loaded, name))
            else:
                self.answer(404, {"error": f"Could not find {self.path}"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            calls.append(body)
            if self.path == f"/v1/models/{name}:predict":
                self.answer(*predict(loaded, body))
            else:
                self.answer(404, {"error": f"Could not find {self.path}"})

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
