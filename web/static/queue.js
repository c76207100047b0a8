"use strict";
// The queues by keyboard (? lists the keys), what is ticked, and the clocks. All of it can be done with buttons and links too.

const find = (selector) => document.querySelector(selector);
const queue = find("#queue");
const ahead = Number(document.body.dataset.now) - Date.now(); // the server's clock before ours
const ticked = new Set();

function count() {
  const word = find("#ticked");
  if (word) word.textContent = ticked.size ? `${ticked.size} ticked` : "this order";
}

function tell() {
  for (const clock of queue.querySelectorAll("[data-due]")) {
    const left = Number(clock.dataset.due) - Date.now() - ahead;
    const minutes = Math.floor(Math.abs(left) / 60000);
    const text = minutes >= 60 ? `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min` : `${minutes} min`;
    clock.textContent = `${text} ${left > 0 ? "left" : "late"}`;
    clock.classList.toggle("late", left <= 0);
  }
}

function step(by) {
  const links = [...queue.querySelectorAll("a")];
  const here = links.findIndex((link) => link.hasAttribute("aria-current"));
  links[Math.min(Math.max(here + by, 0), links.length - 1)]?.click();
}

function answer(choice) {
  if (find(choice)) find("#reason").focus();
  if (find(choice)?.type === "radio") find(choice).checked = true;
}

const KEYS = {
  j: () => step(1), k: () => step(-1), c: () => find("#claim button")?.click(), x: () => find(".here input")?.click(),
  a: () => answer("#approve"), d: () => answer("#decline"), s: () => answer("#settle"), "?": () => find("#keys summary").click(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input:not([type=checkbox]):not([type=radio])");
  if (typing && event.key === "Escape") event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
queue.addEventListener("change", (event) => { ticked[event.target.checked ? "add" : "delete"](event.target.name); count(); });
queue.addEventListener("renewed", () => { // the rows are new ones: tick again what was ticked and still waits
  const still = [...queue.querySelectorAll("input")].filter((box) => ticked.has(box.name));
  ticked.clear();
  for (const box of still) { box.checked = true; ticked.add(box.name); }
  count(); tell();
});
for (const box of queue.querySelectorAll("input:checked")) ticked.add(box.name); // the browser went back to this page
count(); tell();
find(".here")?.scrollIntoView({ block: "nearest" });
setInterval(tell, 1000);
