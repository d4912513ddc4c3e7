"use strict";
// Marks the section in view.
(() => {
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const mark = () => {
    const sections = [...document.querySelectorAll("main > section")];
    const current = sections.filter((s) => s.getBoundingClientRect().top < 120).pop() || sections[0];
    for (const [id, link] of links) link.toggleAttribute("aria-current", id === current.id);
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
