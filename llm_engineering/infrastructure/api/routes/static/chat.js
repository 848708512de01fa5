// The chat page: asks, shows the answer as it comes, keeps the sources beside it.

import { offerAdding } from "./add.js";
import * as conversations from "./conversations.js";
import { load, openEditor } from "./editor.js";
import { badges, countWords, drawAnswer, element, icon, provenance, sourceCard } from "./render.js";
import { events, key, request, ServiceError } from "./stream.js";

const $ = (id) => document.getElementById(id);
const conversation = $("conversation"), composer = $("composer"), question = $("question"), sources = $("sources"), chats = $("history");
const narrow = matchMedia("(max-width: 75rem)");
const TURNS_REMEMBERED = 3;
const REPORTS_SHOWN = 10;
const REMARKS = {
  truncated: "The answer was cut at its length limit.",
  repeated: "The model began to repeat itself and was stopped.",
  personal_data: "Personal data in the answer was masked.",
};
const PLACEHOLDERS = {
  auto: "Ask, or say what to write…", answer: "Ask a question…", write: "What is the text to be about?",
  summarise: "Summarise what was written about…", compare: "On which subject?", catalogue: "For example: articles about evaluation",
};

let chat = conversations.create();
let running = null;
let revising = null;
let info = {};

// --- sources -----------------------------------------------------------------------------------------------------------

function showSources(turn, { number = null, span = null } = {}) {
  const cited = turn.result?.answer.cited ?? [];
  // Passages of one text stand together, and those behind the first are called by their sections alone.
  const texts = Map.groupBy(turn.citations, (citation) => citation.passage.link);
  $("source-list").replaceChildren(...[...texts.values()].flatMap((passages) => passages.map((citation, place) => sourceCard(citation, {
    cited: !turn.result || cited.includes(citation.number),
    open: citation.number === number,
    span: citation.number === number ? span : null,
    follows: place > 0,
  }))));
  $("no-sources").hidden = turn.citations.length > 0;
  for (const cite of conversation.querySelectorAll(".cite")) {
    cite.classList.toggle("current", number !== null && turn.node.contains(cite) && Number(cite.dataset.number) === number);
  }
  if (number === null) return;
  sources.classList.add("open");
  const card = $("source-list").querySelector(`[data-number="${number}"]`);
  card?.scrollIntoView({ block: "nearest" });
  card?.querySelector("mark")?.scrollIntoView({ block: "center" });
  card?.querySelector("button").focus({ preventScroll: true });
}

function closeSources() {
  sources.classList.remove("open");
  question.focus();
}

// --- one turn ----------------------------------------------------------------------------------------------------------

/** A question with its answer as far as it is known; what of it is kept is in `record`. */
function newTurn(text, kept = {}) {
  const label = element("p", { className: "answer-label" });
  const answer = element("div", { className: "answer" });
  const below = element("div");
  const node = element("article", { className: "turn" }, element("p", { className: "question", text }), label, answer, below);
  conversation.append(node);
  const turn = {
    question: text, mode: "auto", text: "", citations: [], supports: [], result: null, draftId: null, unfinished: false,
    edited: null, rating: null, problem: "", ...kept, node, label, answer, below, drawing: 0, editor: null,
  };
  chat.turns.push(turn);
  return turn;
}

const record = ({ question: asked, mode, text, citations, supports, result, draftId, unfinished, edited, rating, problem }) =>
  // Of a finished answer, the result holds text, sources and verdicts.
  ({ question: asked, mode, result, draftId, unfinished, edited, rating, problem, ...(result ? {} : { text, citations, supports }) });

function draw(turn) {
  turn.drawing = 0;
  const atEnd = isAtEnd();
  drawAnswer(turn.answer, turn.edited?.text ?? turn.text, turn.edited ? [] : turn.supports, turn.citations, {
    onCite: (number) => showSources(turn, { number, span: firstSpan(turn, number) }),
    onSentence: (support) => showSources(turn, { number: support.source, span: support.source_span }),
  });
  turn.answer.hidden = !turn.text && turn !== running?.turn;
  if (atEnd) conversation.scrollTop = conversation.scrollHeight;
}

const firstSpan = (turn, number) =>
  turn.supports.find((support) => support.source === number && support.source_span)?.source_span ?? null;

function drawSoon(turn) {
  turn.drawing ||= requestAnimationFrame(() => draw(turn));
}

function take(turn, { event, data }) {
  if (event === "sources") {
    turn.citations = data.citations;
    turn.draftId = data.draft_id ?? null;
    showSources(turn);
  } else if (event === "delta") {
    turn.text += data.text;
    drawSoon(turn);
  } else if (event === "support") {
    turn.supports.push(data);
    drawSoon(turn);
  } else if (event === "done") {
    fill(turn, data);
  } else if (event === "error") {
    throw new ServiceError(data.error.message, { code: data.error.code, requestId: data.error.request_id });
  }
}

function fill(turn, result) {
  turn.result = result;
  turn.draftId = result.draft_id ?? null;
  turn.text = result.answer.text;
  turn.supports = result.answer.supports;
  turn.citations = result.answer.citations;
}

/** What is sent: a path and a body. */
function order(text, mode, revised) {
  const filter = chosenFilter();
  const past = chat.turns.filter((turn) => turn.result).slice(-TURNS_REMEMBERED).flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: (turn.edited?.text ?? turn.text).replace(/\s*\[\d{1,3}\]/g, "").slice(0, 16000) },
  ]);
  const model = info.models?.length > 1 ? { model: $("model-choice").value } : {};
  if (mode !== "write") {
    return ["rag/stream", { query: text, filter, history: past, ...model, ...(mode === "auto" ? {} : { intent: mode }) }];
  }
  const { authors: [author] = [], ...others } = filter;
  const body = { request: text, filter: others, ...model };
  if (author) body.author = author;
  if (composer.elements.format.value) body.format = composer.elements.format.value;
  if (composer.elements.words.value) body.length = Number(composer.elements.words.value);
  if (revised) body.text = (revised.edited?.text ?? revised.text).slice(0, 16000);
  return ["write/stream", body];
}

async function ask(text, mode = chosenMode(), revised = null) {
  $("welcome").hidden = true;
  const [path, body] = order(text, mode, revised);
  const home = chat;
  const turn = newTurn(text, { mode });
  running = new AbortController();
  running.turn = turn;
  turn.answer.classList.add("waiting");
  turn.answer.setAttribute("aria-busy", "true");
  busy(true);
  const stopClock = showProgress(turn);
  conversation.scrollTop = conversation.scrollHeight;
  try {
    const response = await request(path, { body, signal: running.signal });
    for await (const event of events(response)) take(turn, event);
    if (!turn.result) throw new ServiceError("The answer broke off: the connection ended before it was finished.");
  } catch (error) {
    turn.unfinished = true;
    if (error.name !== "AbortError") {
      const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
      turn.problem = `${error.message}${wait}${error.requestId ? ` (request ${error.requestId})` : ""}`;
      if (error.status === 401) askForKey("The service refused the key. Give another one.");
    }
  } finally {
    stopClock();
    cancelAnimationFrame(turn.drawing);
    turn.answer.classList.remove("waiting");
    turn.answer.setAttribute("aria-busy", "false");
    running = null;
    busy(false);
    finish(turn);
    announce(turn);
    keep(home);
    if (turn.draftId) listDrafts();
  }
}

/** What happens while nothing can be read yet, and for how long it has. Returns what ends it. */
function showProgress(turn) {
  const began = Date.now();
  const node = element("span", { className: "progress", "aria-hidden": "true" });
  turn.label.append(node);
  const tick = () => {
    const doing = turn.text ? `Writing · ${countWords(turn.text)} words` : turn.citations.length ? "Reading the sources" : "Looking for sources";
    node.textContent = `${doing} · ${Math.round((Date.now() - began) / 1000)} s`;
  };
  tick();
  const clock = setInterval(tick, 500);
  return () => { clearInterval(clock); node.remove(); };
}

const isAtEnd = () => conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < 80;

/** Draw all that stands around the text of an answer. */
function finish(turn) {
  const atEnd = isAtEnd();
  draw(turn);
  turn.label.replaceChildren(...(turn.text ? badges(turn) : []).map(({ text, warn }) => element("span", { className: warn ? "badge warn" : "badge", text })));
  const remarks = [];
  const remark = (text, warn) => remarks.push(element("p", { className: warn ? "remark warn" : "remark", text }));
  if (turn.result) {
    const { answer, provenance: made } = turn.result;
    // What a model did that was not shown is of no interest to a reader.
    for (const note of answer.quoted ? [] : answer.guard) if (REMARKS[note]) remark(REMARKS[note], true);
    for (const sentence of made.degradations) remark(sentence, true);
    if (!turn.edited && answer.supports.some((support) => support.verdict === "unsupported")) remark("Sentences underlined with dots have no source.");
  } else if (turn.problem) {
    remarks.push(element("p", { className: "problem", role: "alert", text: turn.problem }));
  } else remark("Stopped.");
  turn.below.replaceChildren(...remarks, actions(turn), ...(turn.result ? [provenance(turn.result)] : []));
  if (!turn.node.isConnected) return;
  if (atEnd) conversation.scrollTop = conversation.scrollHeight;
  showSources(turn);
}

function announce(turn) {
  const answer = turn.result?.answer;
  $("announce").textContent = !answer ? (turn.problem ? "The answer failed." : "Stopped.")
    : answer.abstained ? "No answer in the sources." : `Answer finished, ${answer.cited.length} sources cited.`;
}

function actions(turn) {
  const row = element("div", { className: "actions" });
  const button = (sign, text, label, act) => {
    const node = element("button", { type: "button", "aria-label": label, title: label }, icon(sign), element("span", { text }));
    node.addEventListener("click", () => act(node));
    row.append(node);
    return node;
  };
  if (turn.text) {
    button("copy", "Copy", "Copy as Markdown", async (node) => {
      await copy(conversations.answerMarkdown(turn));
      node.lastChild.textContent = "Copied";
      setTimeout(() => { node.lastChild.textContent = "Copy"; }, 1500);
    });
  }
  if (turn.text && turn.draftId) {
    button("edit", "Edit", "Edit this draft", () => edit(turn, row));
    button("revise", "Have it changed", "Have it changed", () => revise(turn));
  }
  button("again", "Ask again", "Ask again", () => { if (!running) ask(turn.question, turn.mode); });
  if (turn.citations.length) button("sources", `Sources (${turn.citations.length})`, `Sources (${turn.citations.length})`, () => {
    showSources(turn);
    sources.classList.add("open");
    sources.focus();
  });
  if (turn.result && info.feedback) {
    const thumbs = {};
    for (const [rating, label] of [["up", "A good answer"], ["down", "A bad answer"]]) {
      thumbs[rating] = button(rating, "", label, () => rate(turn, rating, thumbs, row));
      thumbs[rating].setAttribute("aria-pressed", String(turn.rating === rating));
    }
  }
  return row;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without https the clipboard interface is missing; the old way still works.
  const area = element("textarea", { value: text, className: "hidden" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

// --- drafts ------------------------------------------------------------------------------------------------------------

async function edit(turn, row) {
  if (turn.editor) return turn.editor.focus();
  showSources(turn);
  let draft;
  try {
    draft = await load(turn.draftId);
  } catch (error) {
    row.after(element("p", { className: "problem", role: "alert", text: error.message }));
    return;
  }
  turn.editor = openEditor(draft, {
    saved: (kept) => {
      turn.edited = { text: kept.text, revision: kept.revision };
      redraw(turn);
      keep();
      listDrafts();
    },
    closed: () => { turn.editor = null; turn.below.querySelector("[aria-label^='Edit']")?.focus(); },
    announce: (text) => { $("announce").textContent = text; },
  });
  turn.below.prepend(turn.editor.node);
  turn.editor.focus();
}

/** Draw a turn anew around its editor, which stays as it is. */
function redraw(turn) {
  const { node } = turn.editor ?? {};
  const focused = node?.contains(document.activeElement) ? document.activeElement : null;
  finish(turn);
  if (node) turn.below.prepend(node);
  focused?.focus();
}

/** The next order is about this draft. */
function revise(turn) {
  revising = turn;
  composer.elements.mode.value = "write";
  showMode();
  question.focus();
}

$("revising-cancel").addEventListener("click", () => { revising = null; showMode(); question.focus(); });

/** Drafts that the service keeps, whoever asked for them; the list goes on where it ended. */
async function listDrafts(before = "") {
  if (!info.drafts) return;
  let page;
  try {
    page = await (await request(`drafts?limit=10${before && `&before=${encodeURIComponent(before)}`}`)).json();
  } catch {
    return; // the list is an extra; what else fails says so where it matters
  }
  const items = page.drafts.map((draft) => {
    const open = element("button", { type: "button", className: "entry" },
      element("span", { className: "entry-title", text: draft.request }),
      element("span", { className: "entry-meta", text: [draft.brief.author, draft.brief.format, draft.revision && `version ${draft.revision}`, draft.unfinished && "unfinished"].filter(Boolean).join(" · ") }));
    open.addEventListener("click", () => openDraft(draft.id));
    return element("li", {}, open);
  });
  if (before) $("draft-list").append(...items);
  else $("draft-list").replaceChildren(...items);
  $("kept-drafts").hidden = !$("draft-list").children.length;
  $("more-drafts").hidden = !page.next;
  $("more-drafts").onclick = () => listDrafts(page.next);
}

async function openDraft(id) {
  try {
    const draft = await load(id);
    show();
    const result = { answer: draft.answer, provenance: draft.provenance, timings: {}, trace_id: id, draft_id: id };
    const turn = newTurn(draft.answer.question, { mode: "write", unfinished: draft.unfinished });
    fill(turn, result);
    if (draft.revision) turn.edited = { text: draft.text, revision: draft.revision };
    finish(turn);
    $("welcome").hidden = true;
    keep();
    closeHistory();
    await edit(turn, turn.below);
  } catch (error) {
    $("announce").textContent = error.message;
    listDrafts();
  }
}

// --- feedback ----------------------------------------------------------------------------------------------------------

async function rate(turn, rating, thumbs, row, comment = "") {
  const mark = (chosen) => {
    for (const [name, node] of Object.entries(thumbs)) node.setAttribute("aria-pressed", String(name === chosen));
  };
  const before = turn.rating;
  mark(rating);
  row.nextElementSibling?.matches(".problem") && row.nextElementSibling.remove();
  try {
    await request("feedback", { body: { trace_id: turn.result.trace_id, rating, comment } });
    turn.rating = rating;
    keep();
    $("announce").textContent = "Thank you.";
  } catch (error) {
    mark(before);
    row.after(element("p", { className: "problem", role: "alert", text: `Your vote was not kept: ${error.message}` }));
    return;
  }
  row.parentElement.querySelector(".comment")?.remove();
  if (comment) {
    row.after(element("p", { className: "remark", text: "Thank you, your comment was kept." }));
    return;
  }
  const input = element("input", { maxLength: 2000, placeholder: rating === "down" ? "What was wrong? (optional)" : "What was good? (optional)", "aria-label": "Comment" });
  const form = element("form", { className: "comment" }, input, element("button", { text: "Send" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.value.trim()) rate(turn, rating, thumbs, row, input.value.trim());
  });
  row.after(form);
}

// --- conversations -----------------------------------------------------------------------------------------------------

/** Keep a conversation in this browser; the one that is shown is there again after a reload. */
function keep(kept = chat) {
  if (!kept.turns.length) return;
  kept.title ||= kept.turns[0].question.slice(0, 80);
  kept.at = Date.now();
  const dropped = conversations.save({ ...kept, turns: kept.turns.map(record) });
  if (kept === chat) conversations.current.set(kept.id);
  if (dropped) {
    $("announce").textContent = dropped < 0 ? "This browser has no room for the conversation: it ends with this tab."
      : "The oldest conversations were dropped to make room.";
  }
  listConversations();
}

/** Show a conversation; an empty one, if none is given. */
function show(kept = conversations.create()) {
  running?.abort();
  chat = { ...kept, turns: [] };
  revising = null;
  conversations.current.set(kept.turns.length ? kept.id : "");
  for (const turn of conversation.querySelectorAll(".turn")) turn.remove();
  $("welcome").hidden = kept.turns.length > 0;
  $("source-list").replaceChildren();
  $("no-sources").hidden = false;
  for (const one of kept.turns) {
    const turn = newTurn(one.question, one);
    if (one.result) fill(turn, one.result);
    finish(turn);
  }
  conversation.scrollTop = conversation.scrollHeight;
  showMode();
  listConversations();
}

function listConversations() {
  const all = conversations.list(), found = conversations.search($("search").value);
  $("conversation-list").replaceChildren(...found.map(entry));
  $("search-box").hidden = all.length === 0;
  $("no-conversations").hidden = found.length > 0;
  $("no-conversations").textContent = all.length ? "No conversation holds these words." : "What you ask is kept here, in this browser alone.";
}

$("search").addEventListener("input", listConversations);

function entry(kept) {
  const title = element("span", { className: "entry-title", text: kept.title });
  const chosen = kept.id === chat.id;
  const open = element("button", { type: "button", className: "entry", ...(chosen ? { "aria-current": "true" } : {}) }, title,
    element("span", { className: "entry-meta", text: new Date(kept.at).toLocaleDateString(undefined, { dateStyle: "medium" }) }));
  open.addEventListener("click", () => { show(conversations.read(kept.id) ?? undefined); closeHistory(); });
  const act = (text, does) => {
    const node = element("button", { type: "button", className: "plain", text });
    node.addEventListener("click", does);
    return node;
  };
  const menu = element("details", { className: "entry-menu" },
    element("summary", { "aria-label": `What to do with “${kept.title}”`, text: "⋯" }),
    element("p", {},
      act("Rename", () => rename(kept, item)),
      act("Save as Markdown", () => conversations.download(`${conversations.fileName(kept.title)}.md`, "text/markdown", conversations.toMarkdown(withText(kept)))),
      act("Save as JSON", () => conversations.download(`${conversations.fileName(kept.title)}.json`, "application/json", JSON.stringify(kept, null, 2))),
      act("Delete", () => forget(kept))));
  const item = element("li", {}, open, menu);
  return item;
}

/** A conversation whose turns carry text and sources, whether or not they have a result. */
const withText = (kept) => ({
  ...kept,
  turns: kept.turns.map((turn) => ({ ...turn, text: turn.result?.answer.text ?? turn.text ?? "", citations: turn.result?.answer.citations ?? turn.citations ?? [] })),
});

function rename(kept, item) {
  const input = element("input", { value: kept.title, maxLength: 80, "aria-label": "New name" });
  const form = element("form", { className: "rename" }, input, element("button", { className: "plain", text: "Rename" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const title = input.value.trim();
    if (title) {
      conversations.save({ ...conversations.read(kept.id) ?? kept, title });
      if (kept.id === chat.id) chat.title = title;
    }
    listConversations();
  });
  input.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); listConversations(); } });
  item.replaceChildren(form);
  input.focus();
  input.select();
}

function forget(kept) {
  conversations.remove(kept.id);
  if (kept.id === chat.id) show();
  else listConversations();
  $("undo-text").textContent = `“${kept.title}” is deleted.`;
  $("undo").hidden = false;
  $("undo-delete").onclick = () => { conversations.save(kept); $("undo").hidden = true; listConversations(); };
  $("undo-delete").focus();
}

function openHistory() {
  chats.classList.add("open");
  $("layout").classList.remove("without-history");
  showToggle();
  if (narrow.matches) chats.focus();
}

function closeHistory() {
  if (!narrow.matches || !chats.classList.contains("open")) return;
  chats.classList.remove("open");
  showToggle();
  $("toggle-history").focus();
}

const historyIsOpen = () => (narrow.matches ? chats.classList.contains("open") : !$("layout").classList.contains("without-history"));

function showToggle() {
  $("toggle-history").setAttribute("aria-expanded", String(historyIsOpen()));
}

$("toggle-history").addEventListener("click", () => {
  if (!historyIsOpen()) return openHistory();
  if (narrow.matches) return closeHistory();
  $("layout").classList.add("without-history");
  showToggle();
});
$("close-history").addEventListener("click", closeHistory);
narrow.addEventListener("change", showToggle);

// --- composer ----------------------------------------------------------------------------------------------------------

const chosenMode = () => composer.elements.mode.value;

function chosenFilter() {
  const filter = {};
  for (const [name, value] of new FormData(composer)) {
    if (!value || ["mode", "format", "words"].includes(name)) continue;
    if (name === "published_to") filter[name] = `${value}T23:59:59Z`;
    else filter[name] = name.startsWith("published") ? value : [value];
  }
  return filter;
}

function summariseFilters() {
  const left = chosenMode() === "write" ? ["mode"] : ["mode", "format", "words"];
  const chosen = [...new FormData(composer).entries()].filter(([name, value]) => value && !left.includes(name)).map(([, value]) => value);
  $("filter-summary").textContent = chosen.length ? `· ${chosen.join(", ")}` : "";
}

/** The composer as the chosen mode needs it. */
function showMode() {
  const mode = chosenMode();
  if (mode !== "write") revising = null;
  for (const node of composer.querySelectorAll(".of-write")) node.hidden = mode !== "write";
  $("author-label").textContent = mode === "write" ? "In the voice of" : "Author";
  composer.elements.authors.options[0].text = mode === "write" ? "In any voice" : "Any author";
  $("send").textContent = mode === "write" ? "Write" : "Ask";
  $("revising").hidden = !revising;
  $("revising-text").textContent = revising ? `Changing the draft “${revising.question.slice(0, 60)}”.` : "";
  question.placeholder = revising ? "What is to be changed? For example: half as long" : PLACEHOLDERS[mode];
  summariseFilters();
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  fit();
}

function fit() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
  $("send").disabled = !question.value.trim();
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running) return;
  const revised = revising;
  question.value = "";
  revising = null;
  fit();
  ask(text, chosenMode(), revised);
  showMode();
});
composer.addEventListener("change", showMode);
question.addEventListener("input", fit);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    composer.requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (running) running.abort();
    else if (sources.classList.contains("open")) closeSources();
    else closeHistory();
  } else if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    question.focus();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("close-sources").addEventListener("click", closeSources);
conversation.addEventListener("click", (event) => {
  if (!event.target.closest("button, .sentence")) sources.classList.remove("open");
});
$("new-chat").addEventListener("click", () => { show(); question.focus(); });
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("twin-theme", root.dataset.theme);
});

// --- key ---------------------------------------------------------------------------------------------------------------

function askForKey(problem) {
  if (problem) $("key-problem").textContent = problem;
  $("key").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}
$("key-form").addEventListener("submit", () => { key.set($("key").value.trim()); start(); });
$("key-cancel").addEventListener("click", () => $("key-dialog").close());

// --- start -------------------------------------------------------------------------------------------------------------

function offer(name, values) {
  const select = composer.elements[name];
  const before = select.value;
  select.replaceChildren(select.options[0]);
  for (const [value, count] of Object.entries(values).sort((a, b) => b[1] - a[1])) {
    select.append(new Option(`${value} (${count})`, value));
  }
  select.value = before in values ? before : "";
}

function suggest(authors) {
  const asks = (text) => () => { if (!running) ask(text, "auto"); };
  const only = (author) => () => { composer.elements.authors.value = author; summariseFilters(); question.focus(); };
  const offers = [["What can you do?", asks("What can you do?")], ["List all articles", asks("List all articles")],
    ...authors.slice(0, 3).map((author) => [`Only ${author}`, only(author)])];
  $("suggestions").replaceChildren(...offers.map(([text, act]) => {
    const chip = element("button", { type: "button", text });
    chip.addEventListener("click", act);
    return element("li", {}, chip);
  }));
}

async function start() {
  try {
    info = await (await request("info")).json();
    if (info.author) $("whose").textContent = document.title = `${info.author}’s twin`;
    const several = info.models.length > 1;
    $("model-choice").replaceChildren(...info.models.map((name) => new Option(name, name)));
    $("model-choice").hidden = !several;
    $("model").textContent = [several ? `${info.models.length} models` : info.model, info.grounding === "extractive" && "shows only what the sources say"].filter(Boolean).join(" · ");
    offerAdding(info.documents, [], start); // an empty collection has no filters, and needs it most
    const filters = await (await request("filters")).json();
    for (const name of ["authors", "categories", "platforms", "languages"]) offer(name, filters[name] ?? {});
    const owner = info.author?.toLowerCase();
    const first = ([name, count]) => name.toLowerCase() === owner ? Infinity : count; // the owner, however little is theirs
    const authors = Object.entries(filters.authors ?? {}).sort((a, b) => first(b) - first(a)).map(([name]) => name);
    if (authors.length) $("collection").textContent = `Answers come from the writing of ${new Intl.ListFormat("en").format(authors.slice(0, 5))}, with the sources beside them.`;
    suggest(authors);
    offerAdding(info.documents, authors, start);
  } catch (error) {
    if (error.status === 401) askForKey(key.get() ? "The service refused the key. Give another one." : "");
    else $("collection").textContent = error.message;
  }
  listDrafts();
  if (info.reports) listReports();
}

async function listReports() {
  const { reports } = await (await request("reports")).json().catch(() => ({ reports: [] }));
  $("reports").hidden = !reports.length;
  $("report-list").replaceChildren(...reports.slice(0, REPORTS_SHOWN).map(({ name, made_at: at }) => {
    const path = `reports/${encodeURIComponent(name)}`;
    const link = element("a", { className: "entry", href: path, target: "_blank", rel: "noopener" },
      element("span", { className: "entry-title", text: reportTitle(name) }),
      element("span", { className: "entry-meta", text: new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) }));
    if (key.get()) link.addEventListener("click", async (event) => { // a link cannot carry the key: the file is handed over
      event.preventDefault();
      conversations.download(name, "text/html", await (await request(path)).text());
    });
    return element("li", {}, link);
  }));
}

const reportTitle = (name) => name.replace(/\.html$/, "").replace(/-\d{4}_\d\d_\d\d-[\d_]+-.*$/, "").replaceAll("_", " ");

const theme = localStorage.getItem("twin-theme");
if (theme) document.documentElement.dataset.theme = theme;
const phone = matchMedia("(max-width: 55rem)");
const showFilters = () => { $("filters").open = !phone.matches; }; // a phone has no room for them all the time
phone.addEventListener("change", showFilters);
showFilters();
showToggle();
showMode();
fit();
listConversations();
start().then(() => {
  const last = conversations.read(conversations.current.get());
  if (last && !chat.turns.length) show(last);
});
if (matchMedia("(pointer: fine)").matches) question.focus();
