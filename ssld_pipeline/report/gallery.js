// Orders, filters and pages the duplicate pairs. Those of other pages rest in a template, where a browser decodes no
// picture. Without this the first page stands still.
(() => {
  const form = document.getElementById("pair-controls");
  const list = document.getElementById("pairs");
  if (!form || !list) return;
  const size = list.children.length;
  const shelf = (document.getElementById("more-pairs") || document.createElement("template")).content;
  const pairs = [...list.children, ...shelf.children];
  const pagers = [...document.querySelectorAll(".pager")];
  let chosen = pairs;
  let page = 1;

  const choose = () => {
    const { order, verdict, method } = form.elements;
    const key = order.value.replace("-", "");
    const sign = order.value.startsWith("-") ? 1 : -1;
    const verdicts = verdict.value.split(" ");
    chosen = pairs.filter((p) => (!verdict.value || verdicts.includes(p.dataset.verdict)) &&
      (!method.value || p.dataset.method === method.value));
    if (key) chosen.sort((a, b) => sign * (a.dataset[key] - b.dataset[key]));
  };
  const lastPage = () => Math.max(1, Math.ceil(chosen.length / size));
  const show = (wanted) => {
    page = Math.min(Math.max(1, wanted), lastPage());
    shelf.append(...list.children);
    list.append(...chosen.slice((page - 1) * size, page * size));
    for (const pager of pagers) {
      pager.hidden = pairs.length <= size;
      pager.querySelector(".at").value = `page ${page} of ${lastPage()}, ${chosen.length.toLocaleString("en")} pairs`;
      pager.querySelector("[data-step='-1']").disabled = page === 1;
      pager.querySelector("[data-step='1']").disabled = page === lastPage();
    }
  };
  const pageOfAddress = () => Number((/^#page=(\d+)$/.exec(location.hash) || [])[1] || 0);
  const step = (by) => {
    const wanted = Math.min(Math.max(1, page + by), lastPage());
    if (wanted === page) return;
    show(wanted);
    location.hash = `page=${page}`;
    if (form.getBoundingClientRect().top < 0) form.scrollIntoView({ behavior: "instant" });
  };

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    list.classList.toggle("bare", !form.elements.lines.checked);
    choose();
    show(1);
    if (pageOfAddress()) location.hash = "page=1";
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".pager button");
    if (button) step(Number(button.dataset.step));
  });
  document.addEventListener("keydown", (event) => {
    const { top, bottom } = form.parentElement.getBoundingClientRect();
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const elsewhere = event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, input, .scroll");
    if (by && !elsewhere && top < innerHeight && bottom > 0) step(by);
  });
  addEventListener("hashchange", () => {
    if (pageOfAddress() && pageOfAddress() !== page) show(pageOfAddress());
  });
  show(pageOfAddress() || 1);
  if (pageOfAddress()) form.scrollIntoView({ behavior: "instant" });
})();
