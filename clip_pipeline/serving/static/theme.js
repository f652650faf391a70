// Light or dark as a person chose it, else as the system has it, and what is there only with scripts. Runs before the
// first paint, so that nothing flashes.
(() => {
  document.documentElement.classList.add("has-scripts");
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden; the system's choice holds.
  }
})();
