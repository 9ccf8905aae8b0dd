"use strict";

/* Requests of the images API and their streams of events. */

const token = {
  get: () => sessionStorage.getItem("kgen-token"),
  set: (value) => sessionStorage.setItem("kgen-token", value),
};

/** Asks the user for the token; resolves when the dialog is closed. */
function askForToken() {
  const dialog = document.getElementById("ask");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      token.set(document.getElementById("token").value.trim());
      resolve();
    }, { once: true });
  });
}

/** Calls `fetch` with the token, which the user is asked for if needed; throws the server's error. */
async function request(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers };
    if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
    const response = await fetch(path, { ...options, headers });
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    const error = new Error(body?.error?.message ?? `The server answered ${response.status}.`);
    error.field = body?.error?.param;
    throw error;
  }
}

/** Yields the server-sent events of a response as `{event, data}`. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = {};
      for (const line of part.split("\n")) {
        const at = line.indexOf(":");
        if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).trimStart();
      }
      if (fields.data) yield { event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
