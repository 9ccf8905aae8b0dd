"""What a model keeps of the published one that it was opened from, beside weights and solver.

A preset and a `.keras` file hold it too, so that a model that comes from one can be written back.
"""

import dataclasses
import json

from kgen.serialization import serializable


@serializable
@dataclasses.dataclass(frozen=True)
class Published:
    """A published model, but for its networks.

    Args:
        pipeline: class of the pipeline.
        configs: the configurations by the folder they are from, as they were read.
        licence: None, or the licence that the folder states.

    Example:
        >>> published = Published("DDPMPipeline", {"unet": {"norm_num_groups": 32}})
        >>> Published.from_config(published.get_config()) == published
        True
    """

    pipeline: str
    configs: dict[str, dict]
    licence: str | None = None

    def get_config(self) -> dict:
        """Returns the arguments, the configurations as JSON: their lists stay lists."""
        return {
            "pipeline": self.pipeline,
            "configs": json.dumps(self.configs),
            "licence": self.licence,
        }

    @classmethod
    def from_config(cls, config: dict) -> "Published":
        """Returns an object of what `get_config` returned.

        Raises:
            ValueError: if the configurations are no dictionaries.
        """
        configs = json.loads(config["configs"])
        if not isinstance(configs, dict) or not all(isinstance(c, dict) for c in configs.values()):
            raise ValueError("`configs` must be a dictionary of dictionaries.")
        return cls(**{**config, "configs": configs})
