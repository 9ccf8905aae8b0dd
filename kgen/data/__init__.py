"""Input pipelines: `tf.data` over TFDS data sets. Import the module of the data set you need."""
