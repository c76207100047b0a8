"use strict";
// Three small things: times in the reader's zone, live regions over server-sent events, and a word on the link.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

function localise(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time:not([data-age])")) {
    const at = new Date(time.dateTime);
    time.textContent = (at.toDateString() === today ? clock : day).format(at);
    time.title = at.toISOString();
  }
}

// The server sends whole regions; rows whose mark changed light up, and whoever has the focus keeps it.
function renew(region, html) {
  const marks = new Map([...region.querySelectorAll("[data-id]")].map((row) => [row.dataset.id, row.dataset.mark]));
  const active = region.contains(document.activeElement) ? document.activeElement : null;
  const focused = active && ["href", "name"].find((key) => active.hasAttribute(key));
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  if (marks.size) {
    for (const row of fresh.content.querySelectorAll("[data-id]")) {
      if (marks.get(row.dataset.id) !== row.dataset.mark) row.classList.add("moved");
    }
  }
  localise(fresh.content);
  region.replaceChildren(fresh.content);
  if (focused) region.querySelector(`[${focused}="${CSS.escape(active.getAttribute(focused))}"]`)?.focus({ preventScroll: true });
  region.dispatchEvent(new Event("renewed"));
}

function say(link, word) {
  if (link.textContent !== word) link.textContent = word;
  link.dataset.state = word.toLowerCase();
}

document.addEventListener("DOMContentLoaded", () => {
  localise(document);
  for (const button of document.querySelectorAll("[data-print]")) button.addEventListener("click", () => print());
  const url = document.body.dataset.live;
  if (!url) return;
  const link = document.getElementById("link");
  const source = new EventSource(url);
  source.onopen = () => say(link, "Live");
  source.onerror = () => say(link, "Reconnecting");
  for (const name of ["numbers", "orders", "order", "queue"]) {
    source.addEventListener(name, (event) => renew(document.getElementById(name), event.data));
  }
});
