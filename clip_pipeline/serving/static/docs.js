// Swagger UI on this service's own schema. No validator badge: that would ask another host.

window.ui = window.SwaggerUIBundle({
  url: "/openapi.json",
  domNode: document.getElementById("swagger-ui"),
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  persistAuthorization: false,
  validatorUrl: null,
});

// Swagger UI has dark colours of its own, which a class of the root chooses.
const root = document.documentElement;
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function followTheme() {
  root.classList.toggle("dark-mode", root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
}

new MutationObserver(followTheme).observe(root, { attributeFilter: ["data-theme"] });
systemIsDark.addEventListener("change", followTheme);
followTheme();
