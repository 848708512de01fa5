"use strict";
// Renders posts.json a page at a time as the reader nears the end. A real feed behaves like this: nothing is in the
// HTML, each page takes a moment, and the list says when it is complete (data-end="true").
(() => {
  const PAGE_SIZE = 6;
  const DELAY_MS = 150;
  const list = document.getElementById("posts");
  const status = document.getElementById("status");
  const dates = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  const element = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text) node.textContent = text; // never innerHTML: a post is text, whatever it contains
    return node;
  };

  const render = (post) => {
    const article = element("article", "post");
    article.dataset.id = post.id;
    const face = element("span", "face", post.author.split(" ").map((word) => word[0]).join(""));
    face.setAttribute("aria-hidden", "true");
    const when = element("time", "", dates.format(new Date(post.published)));
    when.dateTime = post.published;
    const who = element("div");
    who.append(element("span", "author", post.author), when);
    const header = element("header");
    header.append(face, who);
    article.append(header, element("p", "text", post.text));
    return article;
  };

  const start = async () => {
    const response = await fetch("/posts.json");
    if (!response.ok) throw new Error(`expected posts.json, got status ${response.status}`);
    const { posts } = await response.json();
    let shown = 0;
    let busy = false;

    const observer = new IntersectionObserver(async (entries) => {
      if (busy || !entries.some((entry) => entry.isIntersecting)) return;
      busy = true;
      status.textContent = "Loading more …";
      await wait(DELAY_MS);
      list.append(...posts.slice(shown, shown + PAGE_SIZE).map(render));
      shown = Math.min(shown + PAGE_SIZE, posts.length);
      busy = false;
      observer.unobserve(status);
      if (shown < posts.length) {
        observer.observe(status); // observing anew reports at once when a tall window still has room
        return;
      }
      list.dataset.end = "true";
      list.setAttribute("aria-busy", "false");
      status.textContent = "That was the last one.";
    });
    observer.observe(status);
  };

  start().catch((error) => {
    status.textContent = `The posts could not be loaded: ${error.message}`;
  });
})();
