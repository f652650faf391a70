// Buttons that copy a path; only where the browser lets a page do so, which takes https or this machine.

export function showCopyButtons(within) {
  if (!navigator.clipboard) return;
  for (const button of within.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.classList.add("is-done");
      button.title = "Copied";
      button.querySelector(".visually-hidden").textContent = "Copied";
    });
  }
}

showCopyButtons(document);
