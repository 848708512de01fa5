// Conversations as this browser keeps them: one entry of the local storage each, so that two tabs do not undo each other.

const PREFIX = "twin-chat-";
const CURRENT = "twin-current";
const MOST = 100;

/** All that are kept, the one used last first. An entry that cannot be read is left out. */
export function list() {
  const found = [];
  for (let place = 0; place < localStorage.length; place += 1) {
    const name = localStorage.key(place);
    if (name.startsWith(PREFIX)) found.push(read(name.slice(PREFIX.length)));
  }
  return found.filter(Boolean).sort((a, b) => b.at - a.at);
}

/** Those that hold every one of the words, in their name, in a question or in an answer. */
export function search(text) {
  const words = text.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  return list().filter((kept) => {
    const held = [kept.title, ...kept.turns.flatMap((turn) => [turn.question, turn.edited?.text ?? turn.result?.answer.text ?? turn.text])]
      .join("\n").toLocaleLowerCase();
    return words.every((word) => held.includes(word));
  });
}

export function read(id) {
  try {
    const kept = JSON.parse(localStorage.getItem(PREFIX + id));
    return Array.isArray(kept?.turns) ? kept : null;
  } catch {
    return null;
  }
}

/** Keep a conversation. Returns how many of the oldest had to go to make room; -1 where there is none. */
export function save(conversation) {
  const text = JSON.stringify(conversation);
  const others = list().filter(({ id }) => id !== conversation.id);
  let dropped = 0;
  while (others.length >= MOST) { remove(others.pop().id); dropped += 1; }
  for (;;) {
    try {
      localStorage.setItem(PREFIX + conversation.id, text);
      return dropped;
    } catch { // the browser's room is used up, or it keeps nothing
      if (!others.length) return -1;
      remove(others.pop().id);
      dropped += 1;
    }
  }
}

export const remove = (id) => localStorage.removeItem(PREFIX + id);

/** Which one this tab shows: it is there again after a reload. */
export const current = {
  get: () => sessionStorage.getItem(CURRENT),
  set: (id) => (id ? sessionStorage.setItem(CURRENT, id) : sessionStorage.removeItem(CURRENT)),
};

export function create() {
  return { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), title: "", at: Date.now(), turns: [] };
}

/** A source as Markdown defines it, so that [1] in the text becomes a link. */
function definition({ number, passage }) {
  const title = (passage.title || passage.author).replaceAll('"', "'").replace(/\s+/g, " ");
  return /^https?:\/\/\S+$/.test(passage.link) ? `[${number}]: ${passage.link} "${title}"` : `[${number}] ${title}: ${passage.link}`;
}

/** One answer as Markdown, with the sources that its text names. */
export function answerMarkdown(turn) {
  const text = turn.edited?.text ?? turn.text;
  const named = turn.citations.filter(({ number }) => text.includes(`[${number}]`)).map(definition);
  return [text.trim(), named.join("\n")].filter(Boolean).join("\n\n");
}

export function toMarkdown({ title, turns }) {
  const parts = turns.map((turn) => [
    `## ${turn.question.replace(/\s+/g, " ")}`,
    // Numbers of sources begin anew in each answer, and Markdown knows one definition of each in a file.
    (turn.edited?.text ?? turn.text).trim() || "*No answer.*",
    turn.citations.map(({ number, passage }) => `${number}. ${linked(passage)}`).join("\n"),
  ].filter(Boolean).join("\n\n"));
  return `# ${title}\n\n${parts.join("\n\n")}\n`;
}

function linked({ title, author, link }) {
  const name = (title || author).replace(/\s+/g, " ").replace(/[[\]]/g, "");
  return /^https?:\/\/\S+$/.test(link) ? `[${name}](<${link}>)` : `${name}, ${link}`;
}

/** Hand a file to the reader. */
export function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A title as a file's name. */
export const fileName = (title) => title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";
