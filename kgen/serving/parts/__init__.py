"""The networks of a model as separate files, for runtimes without kgen and TensorFlow.

`functions` defines the parts of a model and `description` what else a client must know; `litert`
and `onnx_file` convert a part; `writing` writes the parts to a folder, for `kgen.export_parts`.
"""
