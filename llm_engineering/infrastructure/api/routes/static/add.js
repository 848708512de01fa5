// Adding files to the collection: chosen or dropped, one after the other, each with what became of it.

import { element } from "./render.js";
import { request } from "./stream.js";

const $ = (id) => document.getElementById(id);

/** Show the form where the service takes files from this reader; `done` is called when something was added. */
export function offerAdding(allowed, authors, done) {
  $("add-writing").hidden = !allowed;
  $("add-authors").replaceChildren(...authors.map((name) => element("option", { value: name })));
  $("add-author").value ||= authors.length === 1 ? authors[0] : "";
  $("add-writing").onchanged = done;
}

async function add(files) {
  const author = $("add-author");
  if (!author.reportValidity() || !files.length) return;
  $("add-send").disabled = true;
  $("add-list").replaceChildren();
  let added = 0;
  for (const file of files) {
    const line = element("p", { text: `${file.name}: being read…` });
    $("add-list").append(line);
    try {
      const query = new URLSearchParams({ name: file.name, author: author.value.trim() });
      const result = await (await request(`documents?${query}`, { body: file })).json();
      added += result.documents;
      const what = result.status === "unchanged" ? "is there already" : `${result.documents} ${result.documents === 1 ? "text" : "texts"} added`;
      const left = result.left_out ? `, ${result.left_out} left out (${result.reasons[0]?.reason ?? ""})` : "";
      line.textContent = `${file.name}: ${what}${left}. ${result.searchable ? "" : result.message}`;
    } catch (error) {
      line.textContent = `${file.name}: ${error.message}`;
      line.classList.add("warn");
    }
  }
  $("add-send").disabled = false;
  $("add-files").value = "";
  if (added) $("add-writing").onchanged?.();
}

$("add-form").addEventListener("submit", (event) => {
  event.preventDefault();
  add([...$("add-files").files]);
});
$("add-writing").addEventListener("dragover", (event) => {
  event.preventDefault();
  $("add-writing").classList.add("dropping");
});
$("add-writing").addEventListener("dragleave", () => $("add-writing").classList.remove("dropping"));
$("add-writing").addEventListener("drop", (event) => {
  event.preventDefault();
  $("add-writing").classList.remove("dropping");
  add([...event.dataTransfer.files]);
});
