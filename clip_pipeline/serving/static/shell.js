// What every page has: the switch between light and dark, and the dot that tells how the service is.

const HEALTH_EVERY_MS = 30_000;
const root = document.documentElement;
const toggle = document.querySelector("[data-theme-toggle]");
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return root.dataset.theme ?? (systemIsDark.matches ? "dark" : "light");
}

function labelToggle() {
  const next = theme() === "dark" ? "light" : "dark";
  toggle.querySelector("[data-theme-label]").textContent = `Use ${next} colours`;
  toggle.title = `Use ${next} colours`;
  toggle.dataset.shows = theme();
}

toggle.hidden = false;
toggle.addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // Storage may be forbidden; the choice holds for this page.
  }
  labelToggle();
});
systemIsDark.addEventListener("change", labelToggle);
labelToggle();

const dot = document.querySelector("[data-health]");

async function lookAtHealth() {
  if (document.hidden) return;
  let state = { health: "unknown", text: "The service does not answer" };
  try {
    const answer = await fetch("/ui/health", { headers: { Accept: "application/json" } });
    if (answer.ok) state = await answer.json();
  } catch {
    // Said above.
  }
  dot.dataset.health = state.health;
  dot.title = state.text;
  dot.querySelector("[data-health-text]").textContent = state.text;
}

// Whoever is not logged in yet has no dot.
if (dot) {
  lookAtHealth();
  setInterval(lookAtHealth, HEALTH_EVERY_MS);
  document.addEventListener("visibilitychange", lookAtHealth);
}
