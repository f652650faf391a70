// Keeps a page up to date: each time the service tells of a change, the page is read again and what differs is replaced,
// so that the browser shows exactly what the server draws. Without scripts the page of one thing reloads itself.
// data-follow: the WebSocket of one job or request; data-follow-all: server-sent events of the kind data-follow-event;
// data-refresh-every: seconds, where nothing tells of changes.

const QUIET_MS = 300;
const AGAIN_MS = 2000;
const MOST_MS = 60_000;
// The end, a key that is over, nothing there: closes that connecting again would only repeat.
const LAST_CLOSES = [1000, 1008, 4404];

let busy = false;
let asked = false;

async function refresh() {
  asked = true;
  if (busy) return;
  busy = true;
  while (asked) {
    asked = false;
    await readAgain();
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
  }
  busy = false;
}

async function readAgain() {
  try {
    const answer = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-part]")) {
      const other = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
      if (other) bringUpTo(part, other);
    }
  } catch {
    // The service is away for a moment; the connection below comes back and asks again.
  }
}

// Changes nodes rather than replacing them: focus, an open <details> and a moving bar stay what they are.
function bringUpTo(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((child, n) => {
    if (n < before.length) bringUpTo(before[n], child);
    else old.append(document.importNode(child, true));
  });
  before.slice(after.length).forEach((child) => child.remove());
}

function followOne(path, waitMs = AGAIN_MS) {
  const address = new URL(path, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.addEventListener("message", () => {
    waitMs = AGAIN_MS;
    refresh();
  });
  socket.addEventListener("close", ({ code }) => {
    refresh();
    if (LAST_CLOSES.includes(code)) return;
    setTimeout(() => followOne(path, Math.min(2 * waitMs, MOST_MS)), waitMs);
  });
}

// A browser keeps six connections to one service, for all its tabs: one that nobody looks at gives its own back.
function followAll(path, kind) {
  let source = null;
  function follow() {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource(path);
    source.addEventListener("open", refresh);
    source.addEventListener(kind, refresh);
  }
  document.addEventListener("visibilitychange", follow);
  follow();
}

const { follow: one, followAll: all, followEvent: kind } = document.querySelector("[data-follow], [data-follow-all]")?.dataset ?? {};
if (one) followOne(one);
if (all) followAll(all, kind);

const every = document.querySelector("[data-refresh-every]")?.dataset.refreshEvery;
if (every) setInterval(() => document.hidden || refresh(), 1000 * every);
