"use strict";

const $ = (id) => document.getElementById(id);
const brush = new Brush($("canvas"), $("brush"));
let source = null; // the picture to edit, a blob
let model = null;
let running = null;

const PREVIEWS = 12;

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", wrong);
}

/** Shows the fields that the model supports, and hides the others. */
function fit(entry) {
  model = entry;
  $("model").textContent = entry.id;
  document.title = `${entry.id} - kgen`;
  const solves = "steps" in entry.defaults;
  const offered = {
    style: entry.takes === "texts",
    negative: entry.negatives,
    steps: solves,
    guidance: solves && entry.takes !== null,
    edits: entry.edits,
  };
  for (const part of document.querySelectorAll("[data-for]")) {
    part.hidden = !offered[part.dataset.for];
    for (const input of part.querySelectorAll("input")) input.disabled = part.hidden;
  }
  const prompt = $("prompt");
  prompt.hidden = $("prompt-label").hidden = entry.takes === null;
  prompt.disabled = entry.takes === null;
  prompt.required = entry.takes !== null;
  prompt.maxLength = entry.limits.prompt;
  if (entry.takes === "classes") $("prompt-label").textContent = "Class";
  $("classes").replaceChildren(...(entry.classes ?? []).map((name) => new Option(name)));
  $("styles").replaceChildren(...entry.styles.map((name) => new Option(name)));
  $("steps").max = entry.limits.steps;
  $("count").max = entry.limits.count;
  if (solves) {
    $("steps").value = Math.min(entry.defaults.steps, entry.limits.steps);
    $("guidance").value = entry.defaults.guidance;
  }
}

/** Returns the fields of the form that are filled in, by name. */
function settings() {
  const found = {};
  for (const [name, value] of new FormData($("form"))) {
    if (value === "" || name === "strength") continue;
    found[name] = ["n", "steps", "seed"].includes(name) ? Number(value) : value;
    if (name === "guidance") found[name] = Number(value);
  }
  if (found.seed === undefined) found.seed = Math.floor(Math.random() * 2 ** 31);
  if (source) found.strength = Number($("strength").value);
  return found;
}

function fill(given) {
  for (const name of ["prompt", "style", "negative", "steps", "guidance", "seed"]) {
    $(name).value = given[name] ?? "";
  }
  if (given.strength) $("strength").value = given.strength;
  $("count").value = 1;
  $("prompt").focus();
}

/** Returns the file in a data URL, which the security policy of the page does not let it fetch. */
function blobOf(url) {
  const bytes = Uint8Array.from(atob(url.split(",")[1]), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

/** Returns a card of the gallery for one picture, without the picture at first. */
function card(given, seed) {
  const made = $("card").content.firstElementChild.cloneNode(true);
  const one = { ...given, seed };
  const path = [];
  const image = made.querySelector("img");
  const range = made.querySelector(".path");
  const words = [given.prompt, given.style].filter(Boolean).join(", ");
  made.classList.add("forming");
  image.alt = words || `seed ${seed}`;
  made.querySelector(".what").textContent = words;
  for (const name of ["seed", "steps", "guidance", "negative", "strength"]) {
    if (one[name] === undefined) continue;
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    value.textContent = one[name];
    made.querySelector("dl").append(term, value);
  }
  range.addEventListener("input", () => { image.src = path[Number(range.value)]; });
  made.querySelector(".again").addEventListener("click", () => fill(one));
  made.querySelector(".edit").addEventListener("click", async () => {
    await openPicture(blobOf(path.at(-1)));
    $("canvas").focus();
  });
  made.querySelector(".edit").hidden = !model.edits;
  return {
    element: made,
    show(data, last) {
      path.push(`data:image/png;base64,${data}`);
      image.src = path.at(-1);
      range.max = range.value = path.length - 1;
      range.hidden = path.length < 2;
      made.classList.toggle("forming", !last);
      if (last) {
        const link = made.querySelector(".save");
        link.href = path.at(-1);
        link.download = `${(words || "picture").replace(/[^a-z0-9]+/gi, "-").toLowerCase()}-${seed}.png`;
      }
    },
  };
}

/** Returns the path and options of a request: JSON, or a form with files to edit a picture. */
async function requestOf(given) {
  const all = { ...given, model: model.id, stream: true, partial_images: PREVIEWS };
  if (!source) {
    return ["/v1/images/generations", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(all),
    }];
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(all)) form.append(name, value);
  form.append("image", source, "picture.png");
  const mask = await brush.blob();
  if (mask) form.append("mask", mask, "mask.png");
  return ["/v1/images/edits", { method: "POST", body: form }];
}

async function draw() {
  const given = settings();
  const stop = new AbortController();
  running = stop;
  $("draw").disabled = true;
  $("stop").disabled = false;
  const cards = Array.from({ length: given.n }, (_, i) => card(given, given.seed + i));
  say("Waiting");
  let done = 0;
  try {
    const [path, options] = await requestOf(given);
    const response = await request(path, { ...options, signal: stop.signal });
    $("empty").hidden = true;
    $("gallery").prepend(...cards.map((one) => one.element));
    for await (const { event, data } of events(response)) {
      if (event === "error") throw new Error(data.error.message);
      const last = event.endsWith(".completed");
      cards[data.index].show(data.b64_json, last);
      done += last;
      if (!last) say(`Step ${data.step} of ${data.num_steps}`);
    }
    if (done < given.n) throw new Error("The server closed the connection.");
    say(given.n === 1 ? "The picture is done." : `${given.n} pictures are done.`);
  } catch (error) {
    if (done < given.n) cards.slice(done).forEach((one) => one.element.remove());
    if (error.name === "AbortError") {
      say("Stopped");
    } else {
      say(error.message, true);
      const field = { n: "count", image: "file", mask: "canvas" }[error.field] ?? error.field;
      if (field && $(field)) $(field).focus();
    }
  } finally {
    running = null;
    $("draw").disabled = false;
    $("stop").disabled = true;
  }
}

/** Opens a picture to edit. */
async function openPicture(blob) {
  try {
    brush.open(await createImageBitmap(blob));
    source = blob;
    $("editor").hidden = false;
    brush.show();
  } catch {
    say("The browser cannot read this file as a picture.", true);
  }
}

$("form").addEventListener("submit", (e) => {
  e.preventDefault();
  if (!running) draw();
});
$("stop").addEventListener("click", () => running?.abort());
$("file").addEventListener("change", () => $("file").files[0] && openPicture($("file").files[0]));
$("clear-mask").addEventListener("click", () => brush.clear());
$("clear-picture").addEventListener("click", () => {
  source = null;
  brush.close();
  $("file").value = "";
  $("editor").hidden = true;
});
$("strength").addEventListener("input", () => { $("strength-value").value = $("strength").value; });

(async () => {
  try {
    fit((await (await request("/v1/models")).json()).data[0]);
    while (!(await fetch("/ready")).ok) {
      say("The model is warming up");
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    say("Ready");
  } catch (error) {
    say(error.message, true);
  }
})();
