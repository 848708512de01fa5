// Whether a summary helped. The browser keeps a random id, so that one reader has one vote on a version, and may change it.
"use strict";

const box = document.querySelector("#vote");
const buttons = [...box.querySelectorAll("button")];
const status = box.querySelector("[role=status]");

function remember(name, make) {
  try {
    const kept = localStorage.getItem(name) || make();
    if (kept) localStorage.setItem(name, kept);
    return kept;
  } catch { // a browser that keeps nothing
    return make();
  }
}

function show(rating) {
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.rating === rating));
}

const known = `vote-${box.dataset.version}`;
const random = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const voter = remember("voter", random);
show(remember(known, () => ""));
box.hidden = false;

async function vote(rating) {
  const body = JSON.stringify({ version: box.dataset.version, rating, voter });
  const headers = { "Content-Type": "application/json" };
  try {
    const reply = await fetch(`${location.pathname}/summary/feedback`, { method: "POST", headers, body });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    show(rating);
    status.textContent = "Thank you.";
    try { localStorage.setItem(known, rating); } catch { /* the vote is counted all the same */ }
  } catch (error) {
    status.textContent = `The vote was not kept: ${error.message}`;
  }
}

for (const button of buttons) button.addEventListener("click", () => vote(button.dataset.rating));
