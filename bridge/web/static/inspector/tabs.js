/** Tabs after the ARIA pattern: arrow keys move, only the selected tab is in the Tab order. */

import { set, show } from "./dom.js";

/** @param {(name: string) => void} shown Called with the id of the visible panel. */
export function makeTabs(list, shown) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const open = (chosen) => {
    for (const tab of tabs) {
      const selected = tab === chosen;
      set(tab, "aria-selected", String(selected));
      set(tab, "tabindex", selected ? "0" : "-1");
      show(document.getElementById(tab.getAttribute("aria-controls")), selected);
    }
    shown(chosen.getAttribute("aria-controls"));
  };
  const step = { ArrowRight: 1, ArrowLeft: -1 };
  list.addEventListener("click", ({ target }) => target.closest("[role=tab]") && open(target.closest("[role=tab]")));
  list.addEventListener("keydown", (event) => {
    const offered = tabs.filter((tab) => !tab.hidden);
    const index = offered.indexOf(document.activeElement);
    const next = { Home: 0, End: offered.length - 1 }[event.key] ?? (event.key in step ? index + step[event.key] : null);
    if (next === null || index < 0) return;
    event.preventDefault();
    const tab = offered[(next + offered.length) % offered.length];
    tab.focus();
    open(tab);
  });
  open(tabs[0]);
}
