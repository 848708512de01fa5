// The chat page: asks, shows the answer as it comes, keeps the sources beside it.

import { drawAnswer, element, icon, provenance, sourceCard } from "./render.js";
import { events, key, request, ServiceError } from "./stream.js";

const $ = (id) => document.getElementById(id);
const conversation = $("conversation"), composer = $("composer"), question = $("question"), sources = $("sources");
const TURNS_REMEMBERED = 3;
const REMARKS = {
  truncated: "The answer was cut at its length limit.",
  repeated: "The model began to repeat itself and was stopped.",
  personal_data: "Personal data in the answer was masked.",
};

let history = [];
let running = null;
let info = {};
let shownTurn = null;

// --- sources -----------------------------------------------------------------------------------------------------------

function showSources(turn, { number = null, span = null } = {}) {
  shownTurn = turn;
  const cited = turn.result?.answer.cited ?? [];
  $("source-list").replaceChildren(...turn.citations.map((citation) => sourceCard(citation, {
    cited: !turn.result || cited.includes(citation.number),
    open: citation.number === number,
    span: citation.number === number ? span : null,
  })));
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

function newTurn(text) {
  const label = element("p", { className: "answer-label" },
    element("span", { className: "badge", text: "AI-generated" }));
  const answer = element("div", { className: "answer waiting", "aria-busy": "true" });
  const below = element("div");
  const node = element("article", { className: "turn" },
    element("p", { className: "question", text }), label, answer, below);
  conversation.append(node);
  return { question: text, node, label, answer, below, text: "", citations: [], supports: [], result: null, drawing: 0 };
}

function draw(turn) {
  turn.drawing = 0;
  const atEnd = conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < 80;
  drawAnswer(turn.answer, turn.text, turn.supports, turn.citations, {
    onCite: (number) => showSources(turn, { number, span: firstSpan(turn, number) }),
    onSentence: (support) => showSources(turn, { number: support.source, span: support.source_span }),
  });
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
    turn.traceId = data.trace_id;
    showSources(turn);
  } else if (event === "delta") {
    turn.text += data.text;
    drawSoon(turn);
  } else if (event === "support") {
    turn.supports.push(data);
    drawSoon(turn);
  } else if (event === "done") {
    turn.result = data;
    turn.text = data.answer.text;
    turn.supports = data.answer.supports;
    turn.citations = data.answer.citations;
  } else if (event === "error") {
    throw new ServiceError(data.error.message, { code: data.error.code, requestId: data.error.request_id });
  }
}

async function ask(text) {
  $("welcome").hidden = true;
  const turn = newTurn(text);
  running = new AbortController();
  busy(true);
  conversation.scrollTop = conversation.scrollHeight;
  try {
    const body = { query: text, filter: chosenFilter(), history: history.slice(-2 * TURNS_REMEMBERED) };
    const response = await request("rag/stream", { body, signal: running.signal });
    for await (const event of events(response)) take(turn, event);
    if (!turn.result) throw new ServiceError("The answer broke off: the connection ended before it was finished.");
    finish(turn);
  } catch (error) {
    if (error.name === "AbortError") stopped(turn);
    else failed(turn, error);
  } finally {
    cancelAnimationFrame(turn.drawing);
    draw(turn);
    turn.answer.classList.remove("waiting");
    turn.answer.setAttribute("aria-busy", "false");
    turn.answer.hidden = !turn.text;
    running = null;
    busy(false);
  }
}

function finish(turn) {
  const { answer, provenance: made } = turn.result;
  const badge = (text, warn) => turn.label.append(element("span", { className: warn ? "badge warn" : "badge", text }));
  const told = ["catalogue", "converse"].includes(made.intent) || answer.abstained;
  turn.label.firstChild.textContent = answer.quoted ? "Quoted" : told ? "From the collection" : "AI-generated";
  if (made.degradations.length) badge("degraded", true);
  // What a model did that was not shown is of no interest to a reader.
  for (const note of answer.quoted ? [] : answer.guard) if (REMARKS[note]) turn.below.append(element("p", { className: "remark warn", text: REMARKS[note] }));
  for (const sentence of made.degradations) turn.below.append(element("p", { className: "remark warn", text: sentence }));
  if (answer.supports.some((support) => support.verdict === "unsupported")) {
    turn.below.append(element("p", { className: "remark", text: "Sentences underlined with dots are not backed by a source." }));
  }
  turn.below.append(actions(turn), provenance(turn.result));
  history.push({ role: "user", content: turn.question }, { role: "assistant", content: answer.text.replace(/\s*\[\d{1,3}\]/g, "") });
  showSources(turn);
  $("announce").textContent = answer.abstained ? "No answer in the sources." : `Answer finished, ${answer.cited.length} sources cited.`;
}

function stopped(turn) {
  turn.below.append(element("p", { className: "remark", text: "Stopped." }), actions(turn, { vote: false }));
  $("announce").textContent = "Stopped.";
}

function failed(turn, error) {
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const id = error.requestId ? ` (request ${error.requestId})` : "";
  turn.below.append(element("p", { className: "problem", role: "alert", text: `${error.message}${wait}${id}` }),
    actions(turn, { vote: false }));
  if (error.status === 401) askForKey("The service refused the key. Give another one.");
}

function actions(turn, { vote = Boolean(info.feedback) } = {}) {
  const row = element("div", { className: "actions" });
  const button = (sign, text, label, act) => {
    const node = element("button", { type: "button", "aria-label": label, title: label }, icon(sign), element("span", { text }));
    node.addEventListener("click", () => act(node));
    row.append(node);
    return node;
  };
  if (turn.text) {
    button("copy", "Copy", "Copy the answer with its sources", async (node) => {
      await copy(copyText(turn));
      node.lastChild.textContent = "Copied";
      setTimeout(() => { node.lastChild.textContent = "Copy"; }, 1500);
    });
  }
  button("again", "Ask again", "Ask the same question again", () => { if (!running) ask(turn.question); });
  if (turn.citations.length) button("sources", `Sources (${turn.citations.length})`, "Show the sources of this answer", () => {
    showSources(turn);
    sources.classList.add("open");
    sources.focus();
  });
  if (vote) {
    const thumbs = {};
    for (const [rating, label] of [["up", "A good answer"], ["down", "A bad answer"]]) {
      thumbs[rating] = button(rating, "", label, () => rate(turn, rating, thumbs, row));
      thumbs[rating].setAttribute("aria-pressed", "false");
    }
  }
  return row;
}

function copyText(turn) {
  const cited = turn.result?.answer.cited ?? [];
  const lines = turn.citations.filter((citation) => cited.includes(citation.number))
    .map(({ number, passage }) => `[${number}] ${passage.title || passage.author}: ${passage.link}`);
  return [turn.text, lines.join("\n")].filter(Boolean).join("\n\n");
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

// --- feedback ----------------------------------------------------------------------------------------------------------

async function rate(turn, rating, thumbs, row, comment = "") {
  const mark = (chosen) => {
    for (const [name, node] of Object.entries(thumbs)) node.setAttribute("aria-pressed", String(name === chosen));
  };
  const before = turn.rating ?? null;
  mark(rating);
  row.nextElementSibling?.matches(".problem") && row.nextElementSibling.remove();
  try {
    await request("feedback", { body: { trace_id: turn.result.trace_id, rating, comment } });
    turn.rating = rating;
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

// --- composer ----------------------------------------------------------------------------------------------------------

function chosenFilter() {
  const filter = {};
  for (const [name, value] of new FormData(composer)) {
    if (!value) continue;
    if (name === "published_to") filter[name] = `${value}T23:59:59Z`;
    else filter[name] = name.startsWith("published") ? value : [value];
  }
  return filter;
}

function summariseFilters() {
  const chosen = [...new FormData(composer).entries()].filter(([, value]) => value).map(([, value]) => value);
  $("filter-summary").textContent = chosen.length ? `· ${chosen.join(", ")}` : "";
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
  question.value = "";
  fit();
  ask(text);
});
composer.addEventListener("change", summariseFilters);
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
$("new-chat").addEventListener("click", () => {
  running?.abort();
  history = [];
  for (const turn of conversation.querySelectorAll(".turn")) turn.remove();
  $("welcome").hidden = false;
  $("source-list").replaceChildren();
  $("no-sources").hidden = false;
  question.focus();
});
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
  select.replaceChildren(select.options[0]);
  for (const [value, count] of Object.entries(values).sort((a, b) => b[1] - a[1])) {
    select.append(new Option(`${value} (${count})`, value));
  }
}

async function start() {
  try {
    info = await (await request("info")).json();
    $("model").textContent = [info.model, info.grounding === "extractive" && "shows only what the sources say"].filter(Boolean).join(" · ");
    const filters = await (await request("filters")).json();
    for (const name of ["authors", "categories", "platforms", "languages"]) offer(name, filters[name] ?? {});
    const authors = Object.keys(filters.authors ?? {});
    if (authors.length) $("collection").textContent = `Answers come from the writing of ${new Intl.ListFormat("en").format(authors.slice(0, 5))}, with the sources beside them.`;
    $("suggestions").replaceChildren(...authors.slice(0, 5).map((author) => {
      const chip = element("button", { type: "button", text: `Only ${author}` });
      chip.addEventListener("click", () => {
        composer.elements.authors.value = author;
        summariseFilters();
        question.focus();
      });
      return element("li", {}, chip);
    }));
  } catch (error) {
    if (error.status === 401) askForKey(key.get() ? "The service refused the key. Give another one." : "");
    else $("collection").textContent = error.message;
  }
}

const theme = localStorage.getItem("twin-theme");
if (theme) document.documentElement.dataset.theme = theme;
fit();
start();
if (matchMedia("(pointer: fine)").matches) question.focus();
