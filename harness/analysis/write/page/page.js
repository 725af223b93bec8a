(() => {
  "use strict";
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const KEY = "harness-report-theme";

  // A page opened from a file may be refused its storage; the theme then lasts as long as the page.
  const remembered = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* see above */ } };

  // Set before the body is parsed, so that a dark page never flashes white.
  const chosen = remembered();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");

  function themes() {
    const button = document.getElementById("theme");
    const other = () => (theme() === "dark" ? "light" : "dark");
    const label = () => {
      button.textContent = other() === "dark" ? "Dark" : "Light";
      button.setAttribute("aria-label", `Switch to the ${other()} theme`);
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = other();
      remember(root.dataset.theme);
      label();
    });
    dark.addEventListener("change", label);
    label();
  }

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // Numbers are compared by value; what has none comes last, whichever way the rest is sorted.
  function comparison(column, numeric, order) {
    const sign = order === "ascending" ? 1 : -1;
    if (!numeric) {
      return (a, b) => sign * collator.compare(a.cells[column].textContent, b.cells[column].textContent);
    }
    const value = (row) => {
      const text = row.cells[column].dataset.value;
      return text === undefined ? NaN : Number(text);
    };
    return (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return x === y ? 0 : sign * (x < y ? -1 : 1);
    };
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const numeric = head.classList.contains("number");
      // Best first, then worst first, then as it was.
      const first = head.dataset.best === "higher" ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      head.setAttribute("aria-sort", "none");
      head.firstElementChild.addEventListener("click", () => {
        const order = { none: first, [first]: second, [second]: "none" }[head.getAttribute("aria-sort")];
        heads.forEach((one) => one.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", order);
        const rows = order === "none" ? original : [...original].sort(comparison(column, numeric, order));
        body.append(...rows);
      });
    });
  }

  // One tip for the page. A table's explained cells are one stop for the tab key; arrows move between them.
  function hints() {
    const tip = document.getElementById("tip");
    const hide = () => { tip.hidden = true; };
    const show = (cell) => {
      tip.textContent = cell.querySelector(".hint").textContent;
      tip.hidden = false;
      const box = cell.getBoundingClientRect();
      const left = Math.min(Math.max(8, box.left), root.clientWidth - tip.offsetWidth - 8);
      const above = box.top - tip.offsetHeight - 6;
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${above > 8 ? above : box.bottom + 6}px`;
    };
    const explained = (cell) => cell !== undefined && cell.querySelector(".hint") !== null;

    function next(cell, key) {
      const row = cell.parentElement;
      const step = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
      if (key === "ArrowLeft" || key === "ArrowRight") {
        for (let i = cell.cellIndex + step; i >= 0 && i < row.cells.length; i += step) {
          if (explained(row.cells[i])) return row.cells[i];
        }
        return null;
      }
      const rows = row.parentElement.rows;
      for (let i = row.sectionRowIndex + step; i >= 0 && i < rows.length; i += step) {
        if (explained(rows[i].cells[cell.cellIndex])) return rows[i].cells[cell.cellIndex];
      }
      return null;
    }

    for (const table of document.querySelectorAll("table")) {
      const cells = [...table.querySelectorAll("tbody .hint")].map((hint) => hint.parentElement);
      cells.forEach((cell, index) => {
        cell.tabIndex = index === 0 ? 0 : -1;
        cell.classList.add("explained");
        cell.addEventListener("mouseenter", () => show(cell));
        cell.addEventListener("mouseleave", hide);
        cell.addEventListener("focus", () => {
          cells.forEach((one) => { one.tabIndex = -1; });
          cell.tabIndex = 0;
          show(cell);
        });
        cell.addEventListener("blur", hide);
        cell.addEventListener("keydown", (event) => {
          if (event.key === "Escape") hide();
          if (!event.key.startsWith("Arrow")) return;
          event.preventDefault();
          next(cell, event.key)?.focus();
        });
      });
    }
    // Moving to a cell may scroll it into view: its tip goes with it. Any other scrolling leaves the cell behind.
    const follow = () => {
      const cell = document.activeElement;
      const box = cell.getBoundingClientRect();
      const seen = box.bottom > 0 && box.top < root.clientHeight && box.right > 0 && box.left < root.clientWidth;
      if (!tip.hidden && cell.classList.contains("explained") && seen) show(cell);
      else hide();
    };
    addEventListener("scroll", follow, { capture: true, passive: true });
  }

  function shades() {
    for (const shade of document.querySelectorAll(".shade")) {
      const box = shade.firstElementChild;
      const fit = () => shade.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
      box.addEventListener("scroll", fit, { passive: true });
      new ResizeObserver(fit).observe(box);
    }
  }

  // A link into a folded section opens it; paper cannot be unfolded.
  function folds() {
    const open = () => {
      const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (!target) return;
      const fold = target.querySelector(":scope > details.fold") || target.closest("details.fold");
      if (fold) fold.open = true;
      target.scrollIntoView();
    };
    addEventListener("hashchange", open);
    open();
    let closed = [];
    addEventListener("beforeprint", () => {
      closed = [...document.querySelectorAll("details:not([open])")];
      closed.forEach((fold) => { fold.open = true; });
    });
    addEventListener("afterprint", () => closed.forEach((fold) => { fold.open = false; }));
  }

  function contents() {
    const narrow = matchMedia("(max-width: 64rem)");
    const list = document.querySelector(".contents details");
    const fit = () => { list.open = !narrow.matches; };
    narrow.addEventListener("change", fit);
    fit();
    list.addEventListener("click", (event) => {
      if (event.target.closest("a") && narrow.matches) list.open = false;
    });
    const links = new Map([...list.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id).setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-15% 0px -75% 0px" });
    for (const id of links.keys()) seen.observe(document.getElementById(id));
  }

  document.addEventListener("DOMContentLoaded", () => {
    root.classList.add("script");
    themes();
    document.querySelectorAll("table").forEach(sortable);
    hints();
    shades();
    folds();
    contents();
  });
})();
