// Drawing answers and sources. Text only ever enters the page as text nodes, never as HTML.

export function element(tag, { text, ...properties } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  if (text !== undefined) node.textContent = text;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const ICONS = {
  copy: "M9 9h11v12H9zM5 15H4V3h11v1",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 4v7h-7",
  sources: "M4 5h16M4 10h16M4 15h10M4 20h10",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  revise: "M4 6h11M4 11h7M4 16h5M14 20l1-4 5-5 3 3-5 5z",
  up: "M7 11v9H4v-9zM7 11l4-8c1.7 0 2.6 1.2 2.2 3L12.5 9H19a1.6 1.6 0 0 1 1.6 2l-1.9 7.6a2 2 0 0 1-2 1.4H7",
  down: "M17 13V4h3v9zM17 13l-4 8c-1.7 0-2.6-1.2-2.2-3l.7-3H5a1.6 1.6 0 0 1-1.6-2l1.9-7.6a2 2 0 0 1 2-1.4H17",
};

/** Drawn, because not every machine has a font with such signs. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: 16, height: 16, "aria-hidden": "true" })) svg.setAttribute(key, value);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** The service counts code points, JavaScript counts UTF-16 units: a function from the one to the other. */
function unitOffsets(text) {
  if (!/[\ud800-\udbff]/.test(text)) return (offset) => offset;
  const starts = [];
  let unit = 0;
  for (const character of text) { starts.push(unit); unit += character.length; }
  starts.push(unit);
  return (offset) => starts[Math.min(offset, starts.length - 1)];
}

const INLINE = /\[([^\]\n]{1,200})\]\((https?:[^)\s]+)\)|\[(\d{1,3})\]|`([^`\n]+)`|\*\*([^*\n]+)\*\*|(?<![*\w])\*([^*\s][^*\n]*)\*(?!\*)/g;

function inline(text, citations, onCite) {
  const nodes = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, label, link, number, code, strong, emphasis] = match;
    if (number && !citations.some((citation) => citation.number === Number(number))) continue;
    nodes.push(text.slice(last, match.index));
    last = match.index + whole.length;
    if (number) {
      const cite = element("button", { type: "button", className: "cite", text: number, "aria-label": `Source ${number}` });
      cite.dataset.number = number;
      cite.addEventListener("click", (event) => { event.stopPropagation(); onCite(Number(number), event.currentTarget); });
      nodes.push(cite);
    } else if (link) nodes.push(element("a", { href: link, target: "_blank", rel: "noopener noreferrer", text: label }));
    else if (code) nodes.push(element("code", { text: code }));
    else nodes.push(strong ? element("strong", {}, ...inline(strong, citations, onCite)) : element("em", { text: emphasis }));
  }
  nodes.push(text.slice(last));
  return nodes.filter((node) => node !== "");
}

const VERDICTS = {
  supported: "A source backs this sentence. Click to see where.",
  partial: "A source backs this sentence in part. Click to see where.",
  unsupported: "No source backs this sentence.",
};

const isInteractive = (node) => node instanceof Element && (node.matches("button, a") || node.querySelector("button, a"));

/** Words that can be clicked; citations and links among them stay beside them, for a button must not hold another one. */
function clickable(nodes, act) {
  const drawn = [];
  let words = null;
  for (const node of nodes) {
    const blank = !words && typeof node === "string" && !node.trim();
    if (isInteractive(node) || blank) {
      words = null;
      drawn.push(node);
      continue;
    }
    if (!words) {
      words = element("span", { role: "button", tabIndex: 0 });
      words.addEventListener("click", act);
      words.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); }
      });
      drawn.push(words);
    }
    words.append(node);
  }
  return drawn;
}

/** The lines of a Markdown quotation without their marks; rows of a table as one. */
function quotation(text, citations, onCite) {
  const lines = text.split("\n").map((line) => line.replace(/^> ?/, ""));
  const rows = lines.filter((line) => line.startsWith("|") && !/^[|:\s-]+$/.test(line));
  if (!rows.length) return inline(lines.join("\n"), citations, onCite);
  const cells = (row) => row.replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const [head, ...rest] = rows;
  const headed = lines.some((line) => /^\|[|:\s-]+$/.test(line));
  const draw = (tag) => (row) => element("tr", {}, ...cells(row).map((cell) => element(tag, {}, ...inline(cell, citations, onCite))));
  const table = element("table", {},
    headed ? element("thead", {}, draw("th")(head)) : null,
    element("tbody", {}, ...(headed ? rest : rows).map(draw("td"))));
  const others = lines.filter((line) => !line.startsWith("|") && line.trim()).join("\n");
  return [table, ...inline(others, citations, onCite)];
}

/** Draw an answer: its sentences with their verdicts, citations as buttons, fenced code as blocks. */
export function drawAnswer(node, text, supports, citations, { onCite, onSentence }) {
  const unit = unitOffsets(text);
  const sentences = supports.map((support) => ({ support, start: unit(support.span.start), end: unit(support.span.end) }));
  const nodes = [];
  const prose = (start, end) => {
    let at = start;
    for (const { support, start: from, end: to } of sentences) {
      if (from < at || to > end) continue;
      nodes.push(...inline(text.slice(at, from), citations, onCite));
      const words = text.slice(from, to);
      const quoted = words.startsWith("> ");
      const parts = quoted ? quotation(words, citations, onCite) : inline(words, citations, onCite);
      const sentence = element(quoted ? "blockquote" : "span", { className: `sentence ${support.verdict}`, title: VERDICTS[support.verdict] },
        ...(support.source && support.source_span && !quoted ? clickable(parts, () => onSentence(support)) : parts));
      nodes.push(sentence);
      at = to;
    }
    nodes.push(...inline(text.slice(at, end), citations, onCite));
  };
  let last = 0;
  for (const match of text.matchAll(/^(`{3,})[^\n]*\n([\s\S]*?)(?:^\1[^\n]*$|$(?![\s\S]))/gm)) {
    prose(last, match.index);
    nodes.push(element("pre", { tabIndex: 0 }, element("code", { text: match[2] })));
    last = match.index + match[0].length;
  }
  prose(last, text.length);
  node.replaceChildren(...nodes);
}

const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

/** A source as a card that opens to its passage, the span that backs a sentence marked; `follows` another of the same text. */
export function sourceCard(citation, { cited, open, span, follows = false }) {
  const { number, passage } = citation;
  const heading = passage.headings?.at(-1);
  const title = [follows ? "" : passage.title, heading !== passage.title ? heading : ""].filter(Boolean).join(" › ")
    || `${passage.text.trim().slice(0, 70)}…`;
  const meta = follows ? [] : [passage.author, passage.platform, passage.published_at && day.format(new Date(passage.published_at))];
  if (passage.dense_score != null) meta.push(`similarity ${passage.dense_score.toFixed(2)}`);
  const id = `passage-${number}`;
  const body = element("div", { className: "passage", id, hidden: !open });
  const toggle = element("button", { type: "button", "aria-expanded": String(open), "aria-controls": id },
    element("span", { className: "source-number", text: number }),
    element("span", { className: "source-title", text: title }),
    element("span", { className: "source-meta", text: meta.filter(Boolean).join(" · ") }));
  const quote = element("blockquote", { tabIndex: 0 });
  if (span) {
    const unit = unitOffsets(passage.text);
    const [start, end] = [unit(span.start), unit(span.end)];
    quote.append(passage.text.slice(0, start), element("mark", { text: passage.text.slice(start, end) }), passage.text.slice(end));
  } else quote.append(passage.text);
  body.append(quote);
  if (/^https?:/.test(passage.link)) {
    body.append(element("a", { href: passage.link, target: "_blank", rel: "noopener noreferrer", text: "Open the original ↗" }));
  } else body.append(element("span", { className: "source-meta", text: passage.link }));
  toggle.addEventListener("click", () => {
    body.hidden = !body.hidden;
    toggle.setAttribute("aria-expanded", String(!body.hidden));
  });
  const card = element("li", { className: `source${cited ? "" : " uncited"}${open ? " current" : ""}${follows ? " follows" : ""}` }, toggle, body);
  card.dataset.number = number;
  return card;
}

/** How an answer came about, folded away. */
export function provenance(result) {
  const { provenance: made, answer, timings, trace_id: trace } = result;
  const seconds = (value) => (value == null ? "" : `${value.toFixed(2)} s`);
  const rows = {
    Model: answer.model, Search: [made.mode, made.fusion?.kind].filter(Boolean).join(", "), Reranker: made.reranker,
    "Searched for": made.queries?.length > 1 ? made.queries.join(" · ") : "", Prompt: answer.prompt_hash,
    Tokens: answer.usage.completion_tokens ? `${answer.usage.prompt_tokens} in, ${answer.usage.completion_tokens} out` : "",
    Cost: answer.usage.cost_usd != null ? `$${answer.usage.cost_usd.toFixed(5)}` : "",
    "First text": seconds(timings.first_token), Total: seconds(timings.total), Trace: trace,
  };
  const list = element("dl");
  for (const [name, value] of Object.entries(rows)) {
    if (value) list.append(element("dt", { text: name }), element("dd", { text: value }));
  }
  return element("details", { className: "made" }, element("summary", { text: "How this was made" }), list);
}

/** Where a number of sentences stands: how many have no source, in plain words. */
function supportBadge(answer) {
  const all = answer.supports.length;
  const without = answer.supports.filter((support) => support.verdict === "unsupported").length;
  if (!all || answer.quoted) return null;
  if (without) return { text: `${without} of ${all} ${all === 1 ? "sentence" : "sentences"} without a source`, warn: true };
  return { text: all === 1 ? "the sentence has a source" : `all ${all} sentences have a source` };
}

/** What an answer is, in plain words for its reader, as {text, warn}. */
export function badges({ result, unfinished, edited }) {
  if (!result) return unfinished ? [{ text: "Written by AI" }, { text: "unfinished", warn: true }] : [];
  const { answer, provenance: made } = result;
  const told = ["catalogue", "converse"].includes(made.intent);
  const kind = answer.quoted ? (made.intent === "write" ? "In the author's own words" : "Quotation") : told ? "From the collection" : answer.abstained ? "No answer" : "Written by AI";
  return [
    { text: kind },
    !edited && supportBadge(answer),
    unfinished && { text: "unfinished", warn: true },
    answer.finish_reason === "length" && { text: "cut at the length limit", warn: true },
    !edited && answer.voice && answer.voice.score < answer.voice.low && { text: `does not sound like ${answer.voice.author}`, warn: true },
    made.notes.includes("shortened") && { text: "shorter than asked for", warn: true },
    made.degradations.length > 0 && { text: "something was missing", warn: true },
    edited && { text: `edited by you, version ${edited.revision}` },
  ].filter(Boolean);
}

/** Words as a person counts them. */
export const countWords = (text) => text.split(/\s+/).filter(Boolean).length;

/** How near a text is to its author's voice, 0 to 100; null where the reply does not say. */
export function voiceScore(answer) {
  const score = typeof answer.voice === "number" ? answer.voice : answer.voice?.score;
  return typeof score === "number" ? Math.round(100 * score) : null;
}

/** Text with what a person took out and put in. */
export function drawChanges(parts) {
  const tags = { removed: "del", added: "ins" };
  return element("div", { className: "diff", tabIndex: 0, role: "group", "aria-label": "Changes" },
    ...parts.map(({ kind, text }) => (tags[kind] ? element(tags[kind], { text }) : text)));
}
