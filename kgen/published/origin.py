"""The configurations of the published model from which a model was opened.

They are saved in presets and `.keras` files, so that a model that is loaded from one can be
exported in the published layout.
"""

import dataclasses
import json

from kgen.serialization import serializable


@serializable
@dataclasses.dataclass(frozen=True)
class Published:
    """The pipeline, the configurations and the licence of a published model.

    Args:
        pipeline: class of the pipeline.
        configs: the contents of the configuration files, by folder.
        licence: None, or the licence in the README of the folder.

    Example:
        >>> published = Published("DDPMPipeline", {"unet": {"norm_num_groups": 32}})
        >>> Published.from_config(published.get_config()) == published
        True
    """

    pipeline: str
    configs: dict[str, dict]
    licence: str | None = None

    def get_config(self) -> dict:
        """Returns the arguments; the configurations as JSON, since Keras converts lists."""
        return {
            "pipeline": self.pipeline,
            "configs": json.dumps(self.configs),
            "licence": self.licence,
        }

    @classmethod
    def from_config(cls, config: dict) -> "Published":
        """Returns the object of a configuration.

        Raises:
            ValueError: if `configs` is not a dictionary of dictionaries.
        """
        configs = json.loads(config["configs"])
        if not isinstance(configs, dict) or not all(isinstance(c, dict) for c in configs.values()):
            raise ValueError("`configs` must be a dictionary of dictionaries.")
        return cls(**{**config, "configs": configs})
