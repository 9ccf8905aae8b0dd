"""The card of a trained model: README.md beside its files, in plain words and measured figures."""

from kgen.cli.plan import duration

LICENCE = (
    "Licence: {licence} The pictures that it was trained on have licences of their own: whether "
    "this model may be passed on, and how, depends on them. Write here what holds."
)


def figures(plan):
    """The figures before and after, one line each."""
    lines = []
    for name, value in (plan.after or {}).items():
        before = (plan.before or {}).get(name)
        start = "" if before is None else f"{before:.4g} before, "
        lines.append(f"{name}: {start}{value:.4g} after")
    return lines


def write(output, plan, model, args):
    """Writes the card of a training.

    Args:
        output: the folder of the model.
        plan: the finished `kgen.cli.plan.Plan`.
        model: the model.
        args: of the command.
    """
    from kgen.cli.info import card_of, licence_of
    from kgen.cli.models import locate

    began = licence_of(card_of(locate(args.model)))
    began = (
        f'the card of {plan.model} says: "{began}"'
        if began
        else (f"the card of {plan.model}, from which it has weights, does not say one.")
    )
    shape = " x ".join(map(str, model.data_shape))
    origin = {
        "finetune": f"Trained further from {plan.model}",
        "train": f"Trained from scratch, with the autoencoder and text encoder of {plan.model},",
    }[plan.command]
    captions = {
        None: "without captions",
        "txt": "captions in text files",
        "csv": "captions in a CSV table",
        "jsonl": "captions in a table of JSON lines",
        "folders": "captions or classes by the names of folders",
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
| steps | {plan.steps} of {plan.batch_size} pictures |
| learning rate | {plan.learning_rate:g} at its peak, cosine to 0 |
| time | {duration(plan.seconds)}, sheets and validation included |
| seed | {plan.seed} |
| trained | {trained} |

Figures on the held-out pictures, with the same noise before and after:

{chr(10).join(f"* {line}" for line in figures(plan))}

A lower validation loss is no measure of how a picture looks: see the sheets in `samples/`
(`before.png`, `after.png`, `beside_real.png`), of which nothing is selected.

{LICENCE.format(licence=began)}
"""
    (output / "README.md").write_text(text, encoding="utf-8")
