"use strict";
// Orders and filters the duplicate pairs; marks the section in view. Without it the page is whole, only still.
(() => {
  const form = document.getElementById("pair-controls");
  const list = document.getElementById("pairs");
  if (form && list) {
    const pairs = [...list.children];
    const show = () => {
      const { order, decision, method, shown } = form.elements;
      const key = order.value.replace("-", "");
      const sign = order.value.startsWith("-") ? 1 : -1;
      const sorted = key ? [...pairs].sort((a, b) => sign * (a.dataset[key] - b.dataset[key])) : pairs;
      let count = 0;
      for (const pair of sorted) {
        pair.hidden = (decision.value && pair.dataset.decision !== decision.value) ||
          (method.value && pair.dataset.method !== method.value);
        count += !pair.hidden;
      }
      list.append(...sorted);
      shown.value = `${count.toLocaleString("en")} pairs`;
    };
    form.hidden = false;
    form.addEventListener("change", show);
    show();
  }
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const mark = () => {
    const sections = [...document.querySelectorAll("main > section")];
    const current = sections.filter((s) => s.getBoundingClientRect().top < 120).pop() || sections[0];
    for (const [id, link] of links) link.toggleAttribute("aria-current", id === current.id);
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
