// Results while typing, by an image that is dropped or pasted, and with the keyboard. The server draws every page; here
// its answer is asked for early, and the part that differs is put in place. Links and forms do the same without.

import { showCopyButtons } from "./copy.js";

const TYPING_MS = 150;
const words = document.querySelector("[data-words]");
const box = document.querySelector("[data-box]");
const picker = document.querySelector("[data-file]");
const imageForm = document.querySelector("[data-image]");
const live = document.querySelector("[data-live]");
const viewer = document.querySelector("[data-viewer]");
const viewerBody = document.querySelector("[data-viewer-body]");
const dropTarget = document.querySelector("[data-drop]");
const part = (name, within = document) => within.querySelector(`[data-part="${name}"]`);

let example = null; // the image to search with, where there is one: { file, preview }
let asking = new AbortController();
let soon = 0;
let grown = false;

// Asking

function fields() {
  const filled = new URLSearchParams();
  for (const [name, text] of new FormData(words)) {
    const isUsual = name === "k" && text === words.elements.k.options[0].value;
    if (text.trim() && !isUsual) filled.append(name, text);
  }
  return filled;
}

function request() {
  const parameters = fields();
  if (!example) {
    return [parameters.size ? `/ui/search?${parameters}` : "/ui/search", {}];
  }
  const body = new FormData();
  for (const [name, text] of new FormData(imageForm)) {
    if (name === "csrf_token") body.append(name, text);
  }
  parameters.forEach((text, name) => body.append(name, text));
  body.set("file", example.file);
  return ["/ui/search", { method: "POST", body }];
}

async function ask() {
  clearTimeout(soon);
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const [address, options] = request();
  part("results").setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address, { ...options, signal, credentials: "same-origin" });
    if (answer.redirected && new URL(answer.url).pathname !== "/ui/search") {
      location.assign(answer.url);
      return;
    }
    const text = await answer.text();
    if (signal.aborted) return;
    show(new DOMParser().parseFromString(text, "text/html"));
    history.replaceState(null, "", address);
  } catch (error) {
    if (error.name !== "AbortError") say("The service does not answer; it is asked again when you type.");
  } finally {
    if (!signal.aborted) part("results").removeAttribute("aria-busy");
  }
}

function askSoon() {
  clearTimeout(soon);
  soon = setTimeout(ask, TYPING_MS);
}

// Showing

function show(fresh) {
  const results = part("results", fresh);
  if (results) {
    for (const name of ["chip", "limits", "clear"]) part(name).replaceChildren(...part(name, fresh).childNodes);
    growOrReplace(part("results"), results);
    part("results").dataset.state = results.dataset.state;
    document.querySelector("[data-ask]").className = fresh.querySelector("[data-ask]").className;
    document.title = fresh.title;
  } else {
    // Refused before it came to a search: the page that says why.
    part("results").replaceChildren(...fresh.querySelector("main").childNodes);
  }
  prepare();
}

// Images that stay where they are keep their nodes: "show more" must not make the page blink.
function growOrReplace(old, fresh) {
  const before = [...old.querySelectorAll("[data-hit]")];
  const after = [...fresh.querySelectorAll("[data-hit]")];
  const isGrown = before.length > 0 && before.length < after.length
    && before.every((hit, n) => hit.dataset.hit === after[n].dataset.hit);
  if (isGrown) after.slice(0, before.length).forEach((hit, n) => hit.replaceWith(before[n]));
  const hadFocus = old.contains(document.activeElement);
  old.replaceChildren(...fresh.childNodes);
  if (isGrown && hadFocus) hits()[before.length]?.querySelector("[data-open]").focus();
}

function prepare() {
  const preview = document.querySelector("[data-preview]");
  if (preview && example) {
    preview.src = example.preview;
    preview.hidden = false;
  }
  document.querySelectorAll("[data-needs-script]").forEach((button) => {
    button.hidden = !example;
  });
  const count = document.querySelector("[data-count]");
  if (count) say(count.textContent);
  const again = document.querySelector("[data-again]");
  if (again) soon = setTimeout(ask, Number(again.dataset.again));
}

function say(text) {
  live.textContent = text;
}

// Words and filters

function forgetExample() {
  if (example) URL.revokeObjectURL(example.preview);
  example = null;
  picker.value = "";
}

function forgetLike() {
  document.querySelector("[data-like-field]")?.remove();
}

function forgetMore() {
  if (grown) words.elements.k.selectedIndex = 0;
  grown = false;
}

box.addEventListener("input", () => {
  forgetExample();
  forgetLike();
  forgetMore();
  askSoon();
});
words.addEventListener("change", (event) => {
  if (event.target !== box) ask();
});
words.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});

// An image as the question

function askWith(file) {
  forgetExample();
  forgetLike();
  forgetMore();
  box.value = "";
  example = { file, preview: URL.createObjectURL(file) };
  ask();
}

document.querySelector("[data-pick]").addEventListener("click", () => picker.click());
picker.addEventListener("change", () => {
  if (picker.files.length) askWith(picker.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  askWith(file);
});

const bringsFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  dropTarget.hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) dropTarget.hidden = true;
});
document.addEventListener("drop", (event) => {
  dropTarget.hidden = true;
  if (!bringsFiles(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length) askWith(event.dataTransfer.files[0]);
});

// Results: more of them, one of them, and from one to the next

const hits = () => [...document.querySelectorAll("[data-hit]")];
const isPlain = (event) => !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) && !event.button;

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-more], [data-open], [data-close]");
  if (!link || !isPlain(event)) return;
  event.preventDefault();
  if (link.matches("[data-more]")) {
    words.elements.k.value = link.dataset.more;
    grown = true;
    ask();
  } else if (link.matches("[data-open]")) {
    view(link.closest("[data-hit]"));
  } else {
    viewer.close();
  }
});

async function view(hit) {
  const wanted = hit.dataset.hit;
  viewer.dataset.wants = wanted; // at once: the next key goes on from here, whatever has been drawn by then
  const address = hit.querySelector("[data-open]").getAttribute("href");
  try {
    const answer = await fetch(address, { credentials: "same-origin" });
    const image = part("image", new DOMParser().parseFromString(await answer.text(), "text/html"));
    if (viewer.dataset.wants !== wanted) return;
    if (!image) {
      location.assign(address);
      return;
    }
    image.querySelector("[data-like]").href = hit.querySelector("[data-like]").href;
    viewerBody.replaceChildren(image);
    showCopyButtons(viewerBody);
    if (!viewer.open) viewer.showModal();
  } catch {
    say("The service does not answer.");
  }
}

viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close();
});
viewer.addEventListener("close", () => shown()?.querySelector("[data-open]").focus());
const shown = () => hits().find((hit) => hit.dataset.hit === viewer.dataset.wants);

function beside(hit, key) {
  const all = hits();
  const at = all.indexOf(hit);
  switch (key) {
    case "ArrowRight": return all[at + 1];
    case "ArrowLeft": return all[at - 1];
    case "Home": return all[0];
    case "End": return all.at(-1);
    case "ArrowDown": return nearest(hit, all.slice(at + 1));
    case "ArrowUp": return nearest(hit, all.slice(0, at).reverse());
    default: return undefined;
  }
}

// In the next row of `others`, the one whose middle is closest.
function nearest(hit, others) {
  const middle = (one) => one.offsetLeft + one.offsetWidth / 2;
  const next = others.find((other) => other.offsetTop !== hit.offsetTop);
  const row = others.filter((other) => next && other.offsetTop === next.offsetTop);
  return row.sort((a, b) => Math.abs(middle(a) - middle(hit)) - Math.abs(middle(b) - middle(hit)))[0];
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target === box) {
    if (event.key === "ArrowDown" && hits().length) move(event, hits()[0]);
    return;
  }
  if (event.target.matches("input, select, textarea")) return;
  if (event.key === "/" && !viewer.open) {
    event.preventDefault();
    box.focus();
    box.select();
    return;
  }
  const hit = viewer.open ? shown() : event.target.closest("[data-hit]");
  if (!hit) return;
  if (event.key === "m") {
    hit.querySelector("[data-like]").click();
    return;
  }
  const next = beside(hit, event.key);
  if (next && viewer.open) {
    event.preventDefault();
    view(next);
  } else if (next) {
    move(event, next);
  } else if (event.key === "ArrowUp") {
    move(event, null);
  }
});

function move(event, hit) {
  event.preventDefault();
  const target = hit ? hit.querySelector("[data-open]") : box;
  target.focus();
  (hit ?? box).scrollIntoView({ block: "nearest" });
}

prepare();
