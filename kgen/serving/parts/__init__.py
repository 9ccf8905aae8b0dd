"""The networks of a model, one by one, for runtimes that know neither kgen nor TensorFlow.

`functions` says which parts a model has, `description` what else a client needs to know, `litert`
and `onnx_file` convert a part, and `writing`, `kgen.export_parts`, writes them.
"""
