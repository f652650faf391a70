// The image of the form: dropped or pasted as well as chosen, and shown before it is sent. The form works without.

const form = document.querySelector("[data-analyze]");
const target = document.querySelector("[data-target]");
const file = document.querySelector("[data-file]");
const preview = document.querySelector("[data-preview]");
const name = document.querySelector("[data-name]");

function show() {
  URL.revokeObjectURL(preview.src);
  const [chosen] = file.files;
  preview.hidden = !chosen;
  preview.src = chosen ? URL.createObjectURL(chosen) : "data:,";
  name.textContent = chosen ? chosen.name : "Choose an image";
}

function take(files) {
  if (!files.length) return;
  const one = new DataTransfer();
  one.items.add(files[0]);
  file.files = one.files;
  show();
  form.querySelector("[type=submit]").focus();
}

// A format that the browser cannot show may still be one that the service can read.
preview.addEventListener("error", () => {
  preview.hidden = true;
});
file.addEventListener("change", show);
document.addEventListener("paste", (event) => {
  const images = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
  if (!images.length) return;
  event.preventDefault();
  take(images);
});

const bringsFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  target.classList.add("is-over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) target.classList.remove("is-over");
});
document.addEventListener("drop", (event) => {
  target.classList.remove("is-over");
  if (!bringsFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files);
});
