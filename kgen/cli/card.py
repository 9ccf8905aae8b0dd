"""The card of a trained model: a README.md with its data, settings, figures and licence."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from kgen.cli.plan import Plan, duration

if TYPE_CHECKING:
    from kgen.models.generative_model import GenerativeModel

LICENCE = (
    "Licence: {licence} The pictures that it was trained on have licences of their own, which "
    "determine whether and how this model may be distributed. State the licence here."
)


def figures(plan: Plan) -> list[str]:
    """Returns one line for each figure, with its values before and after the training."""
    lines = []
    for name, value in (plan.after or {}).items():
        before = (plan.before or {}).get(name)
        start = "" if before is None else f"{before:.4g} before, "
        lines.append(f"{name}: {start}{value:.4g} after")
    return lines


def write(
    output: pathlib.Path, plan: Plan, model: GenerativeModel, args: argparse.Namespace
) -> None:
    """Writes the card of a trained model.

    Args:
        output: the folder of the model.
        plan: the plan of the finished training.
        model: the model.
        args: the parsed arguments.
    """
    from kgen.cli.info import card_of, licence_of
    from kgen.cli.models import locate

    licence = licence_of(card_of(locate(args.model)))
    licence = (
        f'the card of {plan.model} says: "{licence}"'
        if licence
        else (f"the card of {plan.model}, whose weights it uses, does not state one.")
    )
    shape = " x ".join(map(str, model.data_shape))
    origin = {
        "finetune": f"Fine-tuned from {plan.model}",
        "train": f"Trained from scratch, with the autoencoder and text encoder of {plan.model},",
    }[plan.command]
    captions = {
        None: "without captions",
        "txt": "captions from text files",
        "csv": "captions from a CSV table",
        "jsonl": "captions from a table of JSON lines",
        "folders": "captions or classes from the names of folders",
        "one for all": "one caption for all",
    }[plan.captions]
    trained = "all weights"
    if plan.lora is not None:
        trained = f"a LoRA of rank {plan.lora}, merged; its factors are in lora.safetensors"
    text = f"""# {output.absolute().name}

A {type(model).__name__} of {shape}.

{origin} on {plan.pictures} pictures ({captions}), with {plan.held_out} held out.

| | |
| --- | --- |
| steps | {plan.steps} with {plan.batch_size} pictures each |
| learning rate | {plan.learning_rate:g} at its peak, cosine decay to 0 |
| time | {duration(plan.seconds)}, including sheets and validation |
| seed | {plan.seed} |
| trained | {trained} |

Figures on the held-out pictures, with the same noise before and after:

{chr(10).join(f"* {line}" for line in figures(plan))}

The validation loss does not measure how good a picture looks: see the sheets in `samples/`
(`before.png`, `after.png`, `beside_real.png`), which show samples without selection.

{LICENCE.format(licence=licence)}
"""
    (output / "README.md").write_text(text, encoding="utf-8")
