/** The page on which to try requests: Swagger UI with the bridge's own description. */

/** The bridge's root, relative to this file, so that the page also works under a path prefix of a proxy. */
const BASE = new URL("..", import.meta.url);

window.SwaggerUIBundle({
  url: new URL("openapi.json", BASE).href,
  domNode: document.getElementById("api"),
  presets: [window.SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null, // it would send the address of this page to another host
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
