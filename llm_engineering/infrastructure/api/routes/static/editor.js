// The draft editor: a person's version beside the draft, with what is known of it; saved versions can be compared.

import { countWords, drawChanges, element, voiceScore } from "./render.js";
import { request } from "./stream.js";

let opened = 0;

/** The server's copy of a draft, as the editor needs it. */
export async function load(id) {
  return (await request(`drafts/${encodeURIComponent(id)}`)).json();
}

/**
 * Open an editor for a draft.
 *
 * `saved` is told of each version that was kept; `closed` of the editor's end; `announce` speaks to a screen reader.
 */
export function openEditor(draft, { saved, closed, announce }) {
  let kept = draft;
  const number = (opened += 1);
  const path = `drafts/${encodeURIComponent(draft.id)}`;
  const area = element("textarea", { className: "draft-text", id: `draft-text-${number}`, value: draft.text, rows: 10, maxLength: 50000, spellcheck: true });
  const words = element("dd");
  const state = element("p", { className: "remark", role: "status" });
  const trouble = element("div");
  const changes = element("div");
  const since = element("select", { id: `since-${number}` });
  const compare = element("p", { className: "compare" },
    element("label", { htmlFor: since.id, text: "Changes since " }), since,
    button("Show changes", showChanges));
  const save = button("Save edit", () => keep(kept.revision), "send");
  const node = element("section", { className: "editor", "aria-label": "Draft editor" },
    element("label", { htmlFor: area.id, text: "Your version" }), area,
    meters(draft.answer, draft.brief, words), trouble,
    element("p", { className: "editor-actions" }, save, button("Close", close)), state, compare, changes);

  function button(text, act, className = "plain") {
    const made = element("button", { type: "button", className, text });
    made.addEventListener("click", act);
    return made;
  }

  function changed() {
    return area.value.trim() !== "" && area.value !== kept.text;
  }

  function show() {
    words.textContent = `${countWords(area.value)} of about ${draft.brief.words}`;
    save.disabled = !changed();
    state.textContent = area.value === kept.text
      ? kept.revision ? `Version ${kept.revision} is saved.` : "Nothing is changed yet."
      : area.value.trim() ? "Not saved yet." : "An empty text cannot be saved.";
    const older = [0, ...kept.edits.map(({ revision }) => revision)].slice(0, -1);
    since.replaceChildren(...older.map((revision) => new Option(revision ? `version ${revision}` : "the draft", revision)));
    compare.hidden = kept.revision === 0;
  }

  async function keep(base) {
    trouble.replaceChildren();
    try {
      const body = { text: area.value, base_revision: base };
      kept = await (await request(path, { method: "PUT", body })).json();
      changes.replaceChildren();
      announce(`Version ${kept.revision} is saved.`);
      saved(kept);
    } catch (error) {
      if (error.code === "edited_meanwhile") return decide();
      complain(`Your version was not saved: ${error.message}`);
    }
    show();
  }

  /** Somebody else saved a version while this one was being written. */
  async function decide() {
    const theirs = await load(draft.id).catch((error) => complain(error.message));
    if (!theirs) return;
    const take = (text) => { kept = theirs; area.value = text; trouble.replaceChildren(); show(); area.focus(); };
    const mine = area.value;
    trouble.replaceChildren(element("div", { className: "problem", role: "alert" },
      element("p", { text: `Version ${theirs.revision} was saved meanwhile, in another window or by somebody else. Yours is not lost.` }),
      element("p", {}, button("Save mine over it", () => { kept = theirs; keep(theirs.revision); }), button("Take theirs", () => take(theirs.text)),
        button("See theirs below", () => { take(mine); changes.replaceChildren(element("div", { className: "diff", tabIndex: 0, text: theirs.text })); }))));
  }

  async function showChanges() {
    try {
      const query = new URLSearchParams({ from: since.value, to: kept.revision });
      const { words: parts } = await (await request(`${path}/diff?${query}`)).json();
      changes.replaceChildren(drawChanges(parts),
        element("p", { className: "remark", text: "Struck out: what was taken out. Underlined: what was put in." }));
      changes.firstChild.focus();
    } catch (error) {
      complain(error.message);
    }
  }

  function complain(message) {
    trouble.replaceChildren(element("p", { className: "problem", role: "alert", text: message }));
  }

  function close() {
    if (changed() && !node.dataset.asked) {
      node.dataset.asked = "yes";
      complain("Your changes are not saved. Close once more to drop them.");
      return;
    }
    node.remove();
    closed();
  }

  area.addEventListener("input", () => { delete node.dataset.asked; show(); });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && changed()) { event.preventDefault(); keep(kept.revision); }
    if (event.key === "Escape") { event.stopPropagation(); close(); }
  });
  show();
  return { node, focus: () => area.focus() };
}

/** Where nine tenths of the author's own texts lie. */
function range(voice) {
  return voice?.low === undefined ? "" : ` (their own texts: ${Math.round(voice.low * 100)} to ${Math.round(voice.high * 100)})`;
}

/** What is known of the draft as the model wrote it, and how long the person's version is. */
function meters(answer, brief, words) {
  const backed = answer.supports.filter(({ verdict }) => verdict !== "unsupported").length;
  const voice = voiceScore(answer);
  const rows = {
    Words: words,
    "Backed by sources": answer.supports.length ? `${backed} of ${answer.supports.length} sentences of the draft` : "",
    Voice: voice === null ? "" : `${voice} of 100${range(answer.voice)}`,
    "In the voice of": brief.author ?? "",
    Model: answer.model,
  };
  const list = element("dl", { className: "meters" });
  for (const [name, value] of Object.entries(rows)) {
    if (value) list.append(element("div", {}, element("dt", { text: name }), typeof value === "string" ? element("dd", { text: value }) : value));
  }
  return list;
}
