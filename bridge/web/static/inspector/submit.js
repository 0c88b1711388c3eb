/** The form that submits a task. */

import { json } from "./api.js";
import { byId, copy, make, setText, show } from "./dom.js";
import { encoded } from "./links.js";
import { submitLine } from "./snippets.js";
import { token } from "./api.js";

export class Submit {
  /** @param {(ref: string) => void} created Called with the ref of the new task. */
  constructor(created) {
    this.upstreams = "";
    byId("submit-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(created);
    });
    byId("submit-copy").addEventListener("click", ({ target }) => {
      const { upstream, options, body } = this.form;
      copy(submitLine(upstream, options, body, Boolean(token.value)), byId("submit-body"), target);
    });
  }

  get form() {
    return { upstream: byId("submit-upstream").value, options: byId("submit-options").value.trim().replace(/^\?/, ""), body: byId("submit-body").value };
  }

  /** @param {string[]} upstreams The upstreams the user may submit to. */
  render(upstreams) {
    show(byId("submit-form"), upstreams.length > 0);
    show(byId("submit-none"), upstreams.length === 0);
    if (upstreams.join() === this.upstreams) return;
    this.upstreams = upstreams.join();
    byId("submit-upstream").replaceChildren(...upstreams.map((name) => make("option", { value: name }, name)));
  }

  async send(created) {
    const { upstream, options, body } = this.form;
    const button = byId("submit-send");
    button.disabled = true;
    this.showResult("");
    try {
      JSON.parse(body);
      const headers = { "Content-Type": "application/json" };
      const { state } = await json(`v1/tasks/${encoded(upstream)}${options ? `?${options}` : ""}`, { method: "POST", headers, body });
      this.showResult(`Created ${state.task}.`);
      created(state.task);
    } catch (error) {
      this.showResult(error instanceof SyntaxError ? `The body is not JSON: ${error.message}` : error.message);
    } finally {
      button.disabled = false;
    }
  }

  showResult(text) {
    setText(byId("submit-result"), text);
  }
}
