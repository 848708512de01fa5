// Trying the API on its own page: each form sends what it shows, and shows it as a command too.

import { key } from "./stream.js";

const SHOWN = 200_000;

/** What a form asks for: a path, and what goes with it. */
function read(form) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  for (const input of form.querySelectorAll("[data-in]")) {
    if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value) || `{${input.name}}`);
    else if (input.value) query.set(input.name, input.value);
  }
  const file = form.elements.file;
  const body = file ? file.files[0] : form.elements.body?.value;
  const type = file ? "application/octet-stream" : "application/json";
  return { method: form.dataset.method, url: new URL(`.${path}${query.size ? `?${query}` : ""}`, location.href).href, body, type, file };
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The same request as a command of a terminal; a key is never written into it. */
function command({ method, url, body, type, file }) {
  const parts = ["curl", ...(method === "GET" ? [] : ["-X", method]), quote(url)];
  if (key.get()) parts.push('-H "Authorization: Bearer $SERVICE_API_KEY"');
  if (file) parts.push("--data-binary", quote(`@${body?.name ?? "FILE"}`));
  else if (body !== undefined) parts.push(`-H 'Content-Type: ${type}'`, "-d", quote(compact(body)));
  return parts.join(" ");
}

function compact(text) {
  try { return JSON.stringify(JSON.parse(text)); } catch { return text; }
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

async function send(form) {
  const { method, url, body, type } = read(form);
  const status = form.querySelector(".status"), answer = form.querySelector(".answer"), button = form.querySelector("button");
  const headers = { ...(body === undefined ? {} : { "Content-Type": type }), ...(key.get() ? { Authorization: `Bearer ${key.get()}` } : {}) };
  button.disabled = true;
  status.textContent = "Sent…";
  answer.hidden = false;
  answer.textContent = "";
  const began = performance.now();
  try {
    const response = await fetch(url, { method, headers, body, cache: "no-store" });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      if (answer.textContent.length < SHOWN) answer.textContent += piece.value; // a stream is shown as it comes
    }
    if (response.headers.get("content-type")?.startsWith("application/json")) answer.textContent = pretty(answer.textContent);
    status.textContent = `${response.status} ${response.statusText} · ${((performance.now() - began) / 1000).toFixed(2)} s`;
    if (response.status === 401) document.getElementById("key").focus();
  } catch {
    status.textContent = "The service cannot be reached. Is it running?";
  }
  button.disabled = false;
}

const forms = [...document.querySelectorAll(".try form")];
const showCommand = (form) => { form.querySelector(".curl").textContent = command(read(form)); };
for (const form of forms) {
  showCommand(form);
  form.addEventListener("input", () => showCommand(form));
  form.addEventListener("submit", (event) => { event.preventDefault(); send(form); });
}
document.getElementById("key-box").hidden = false;
document.getElementById("key").value = key.get();
document.getElementById("key").addEventListener("input", ({ target }) => { key.set(target.value.trim()); forms.forEach(showCommand); });
