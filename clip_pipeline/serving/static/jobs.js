// Keeps a page about jobs up to date: each time the service tells of a change, the page is read again and what differs
// is replaced, so that the browser shows exactly what the server draws. Without scripts the page of a job reloads itself.

const QUIET_MS = 300;
const AGAIN_MS = 2000;
const NORMAL = 1000;
const UNKNOWN_JOB = 4404;

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

function followJob(path) {
  const address = new URL(path, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.addEventListener("message", refresh);
  socket.addEventListener("close", (event) => {
    refresh();
    if (event.code !== NORMAL && event.code !== UNKNOWN_JOB) setTimeout(() => followJob(path), AGAIN_MS);
  });
}

// A browser keeps six connections to one service, for all its tabs: one that nobody looks at gives its own back.
function followAll(path) {
  let source = null;
  function follow() {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource(path);
    source.addEventListener("open", refresh);
    source.addEventListener("job", refresh);
  }
  document.addEventListener("visibilitychange", follow);
  follow();
}

const { followJob: job, followAll: all } = document.querySelector("[data-follow-job], [data-follow-all]")?.dataset ?? {};
if (job) followJob(job);
if (all) followAll(all);
